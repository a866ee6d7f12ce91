// How much attention of some tokens of one sequence sees, `depth` keys being there before them. `window`: the keys that a
// token sees up to its own, that included; 0 = all before it. `ahead`: keys of the same step after it that it sees at most;
// 0 of texts that go on.
#ifndef QN_RUNTIME_BASE_WINDOW_H
#define QN_RUNTIME_BASE_WINDOW_H

#include <stdint.h>

#define QN_WINDOW_ALL 4294967295u  // all keys after a token

// Pairs of a token and a key that it sees.
static inline double qn_window_pairs(double window, double ahead, double depth, double tokens) {
  double growing = window > 0 ? window - depth : tokens;  // tokens that see one key more than the one before
  if (growing > tokens) growing = tokens;
  if (growing < 0) growing = 0;
  double after = ahead < tokens - 1 ? ahead : tokens - 1;  // the last tokens see fewer
  return growing * depth + growing * (growing + 1) / 2 + (tokens - growing) * window +
         after * (tokens - after) + after * (after - 1) / 2;
}

// Keys that one of them sees at least.
static inline double qn_window_keys(double window, double depth, double tokens) {
  double all = depth + tokens, seen = window + tokens - 1;
  return window > 0 && seen < all ? seen : all;
}

// Of pages of so many keys: the first that the token after `tokens` others still sees.
static inline int64_t qn_window_first_page(int64_t window, int64_t tokens, int64_t page_keys) {
  int64_t first = tokens - window + 1;
  return window > 0 && first > 0 ? first / page_keys : 0;
}

// Pages that a sequence of so many tokens, evaluated at most `step` at a time, holds at most: those before the window are
// given back, but for one more, so that a page's worth of tokens can always be taken out again.
static inline int64_t qn_window_pages(int64_t window, int64_t step, int64_t tokens, int64_t page_keys) {
  int64_t all = tokens / page_keys + (tokens % page_keys != 0);
  if (window <= 0 || step >= tokens) return all;
  int64_t keys = window - 1 + page_keys + step, most = (keys - 2) / page_keys + 2;  // wherever in a page they begin
  return most < all ? most : all;
}

#endif
