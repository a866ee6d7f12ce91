// How much attention of some tokens of one sequence sees, `depth` keys being there before them. `window`: the keys that a
// token sees at most, itself included; 0 = all before it.
#ifndef QN_RUNTIME_BASE_WINDOW_H
#define QN_RUNTIME_BASE_WINDOW_H

// Pairs of a token and a key that it sees.
static inline double qn_window_pairs(double window, double depth, double tokens) {
  double growing = window > 0 ? window - depth : tokens;  // tokens that see one key more than the one before
  if (growing > tokens) growing = tokens;
  if (growing < 0) growing = 0;
  return growing * depth + growing * (growing + 1) / 2 + (tokens - growing) * window;
}

// Keys that one of them sees at least.
static inline double qn_window_keys(double window, double depth, double tokens) {
  double all = depth + tokens, seen = window + tokens - 1;
  return window > 0 && seen < all ? seen : all;
}

#endif
