// Trees of guesses from chances: what may come next at each place, which places are worth going on from, and which guesses
// a step takes in the end: the likeliest, as far as there is room.
#include "runtime/propose_tree.h"

#include <math.h>

// --- what may come next

// Puts a token where it belongs among the likeliest so far.
static void insert(qn_choice *choices, int32_t *count, int32_t most, int32_t token, float logit) {
  int32_t at = *count;
  if (at == most && !(logit > choices[at - 1].chance)) return;
  if (at < most) ++*count;
  else at--;
  for (; at > 0 && choices[at - 1].chance < logit; at--) choices[at] = choices[at - 1];
  choices[at] = (qn_choice){token, logit};
}

// Makes `token` the first choice; if it is none of them, in place of the last.
static void put_first(qn_choice *choices, int32_t count, int32_t token, float logit) {
  int32_t at = 0;
  while (at < count - 1 && choices[at].token != token) at++;
  for (; at > 0; at--) choices[at] = choices[at - 1];
  choices[0] = (qn_choice){token, logit};
}

qn_status qn_choices_take(qn_sampler *sampler, const float *logits, int32_t most, bool drawn, qn_choice *out,
                          int32_t *out_count, qn_diag *diag) {
  qn_sampling settings;
  int32_t first = 0, vocab = qn_sampler_vocab(sampler);
  *out_count = 0;
  QN_TRY(qn_sampler_sample(sampler, logits, &first, diag));
  qn_sampler_foresee(sampler, &settings, 1);
  for (int32_t i = 0; i < vocab; i++) insert(out, out_count, most, i, logits[i]);
  float max = out[0].chance, sum = 0, scale = settings.inverse_temperature;
  for (int32_t i = 0; i < vocab; i++) sum += qn_sampler_exp((logits[i] - max) * scale);
  if (drawn) put_first(out, *out_count, first, logits[first]);
  for (int32_t i = 0; i < *out_count; i++) out[i].chance = qn_sampler_exp((out[i].chance - max) * scale) / sum;
  if (settings.top_k == 1 || !drawn) return QN_OK;
  // Both models draw by the same number: what one chooses the other does oftener than by its share.
  float share = out[0].chance, rest = share < 1 ? 0.5f : 0;
  out[0].chance = (1 + share) / 2;
  for (int32_t i = 1; i < *out_count; i++) out[i].chance *= rest;
  return QN_OK;
}

// --- growing

void qn_growth_add(qn_growth *growth, int32_t parent, const qn_choice *choices, int32_t count) {
  const qn_growth_node *above = parent == QN_DRAFT_ROOT ? NULL : &growth->nodes[parent];
  for (int32_t i = 0; i < count && growth->count < growth->capacity; i++) {
    growth->nodes[growth->count++] = (qn_growth_node){.token = choices[i].token,
                                                      .parent = parent,
                                                      .depth = above ? above->depth + 1 : 1,
                                                      .chance = choices[i].chance * (above ? above->chance : 1)};
  }
}

// How many nodes are likelier; of equals the earlier ones are.
static int32_t rank_of(const qn_growth *growth, int32_t node) {
  float chance = growth->nodes[node].chance;
  int32_t rank = 0;
  for (int32_t i = 0; i < growth->count; i++)
    rank += growth->nodes[i].chance > chance || (growth->nodes[i].chance == chance && i < node);
  return rank;
}

int32_t qn_growth_frontier(const qn_growth *growth, int32_t depth, const qn_draft_room *room, int32_t most, int32_t *out) {
  int32_t count = 0;
  for (int32_t i = 0; i < growth->count; i++) {
    const qn_growth_node *n = &growth->nodes[i];
    if (n->depth != depth || n->chance < room->least || rank_of(growth, i) >= room->tokens) continue;
    int32_t at = count < most ? count++ : most;
    for (; at > 0 && growth->nodes[out[at - 1]].chance < n->chance; at--)
      if (at < most) out[at] = out[at - 1];
    if (at < most) out[at] = i;
  }
  return count;
}

// The likeliest node that is not taken and is not less likely than `least`; -1: none.
static int32_t next_best(const qn_growth *growth, double least) {
  int32_t best = -1;
  for (int32_t i = 0; i < growth->count; i++) {
    const qn_growth_node *n = &growth->nodes[i];
    if (n->taken == 0 && n->chance >= least && (best < 0 || n->chance > growth->nodes[best].chance)) best = i;
  }
  return best;
}

void qn_growth_harvest(qn_growth *growth, const qn_draft_room *room, qn_draft *out) {
  int32_t paths = 0;
  while (out->count < room->tokens) {
    int32_t i = next_best(growth, room->least);
    if (i < 0) return;
    qn_growth_node *n = &growth->nodes[i];
    int32_t parent = n->parent == QN_DRAFT_ROOT ? QN_DRAFT_ROOT : growth->nodes[n->parent].taken - 1;
    bool is_there = n->parent == QN_DRAFT_ROOT || growth->nodes[n->parent].taken > 0;
    // Whoever is the first after an end takes that path over.
    bool first = n->parent == QN_DRAFT_ROOT ? out->count == 0 : is_there && growth->nodes[n->parent].children == 0;
    n->taken = -1;
    if (!is_there || n->depth > room->depth || (!first && paths == room->paths)) continue;
    if (!first || paths == 0) paths++;
    if (n->parent != QN_DRAFT_ROOT) growth->nodes[n->parent].children++;
    n->taken = qn_draft_add(out, parent, n->token) + 1;
  }
}
