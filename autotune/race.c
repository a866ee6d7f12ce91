// The sequential test, and the noise that it has to see through.
#include "autotune/race.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double qn_quantile(double *values, size_t count, double q) {
  if (count == 0) return 0;
  qsort(values, count, sizeof *values, by_value);
  double at = q * (double)(count - 1);
  size_t below = (size_t)at;
  if (below + 1 >= count) return values[count - 1];
  return values[below] + (at - (double)below) * (values[below + 1] - values[below]);
}

static double median_of(const double *values, size_t count) {
  double copy[QN_RACE_MOST];
  memcpy(copy, values, count * sizeof *values);
  return qn_quantile(copy, count, 0.5);
}

double qn_noise_deviation(const qn_noise *noise) {
  enum { FEW = 6 };  // the guess counts as so many
  size_t count = noise->count < QN_NOISE_MOST ? noise->count : QN_NOISE_MOST;
  double guess = 0.05, least = 0.003;
  // The median magnitude of normal deviations is 0.6745 standard ones; those of a sample from its own median are less.
  double seen = median_of(noise->deviations, count) / 0.6745;
  double part = (double)count / ((double)count + FEW);
  double deviation = count < 64 ? part * seen + (1 - part) * guess : seen;
  return deviation > least ? deviation : least;
}

void qn_noise_learn(qn_noise *noise, const qn_race *race) {
  if (race->count < 3) return;
  double median = median_of(race->ratios, (size_t)race->count);
  double wider = sqrt((double)race->count / (race->count - 1.0));
  for (int i = 0; i < race->count; i++)
    noise->deviations[noise->count++ % QN_NOISE_MOST] = fabs(race->ratios[i] - median) * wider;
}

void qn_race_add(qn_race *race, double incumbent_s, double candidate_s) {
  if (race->count < QN_RACE_MOST) race->ratios[race->count++] = log(incumbent_s / candidate_s);
}

int qn_race_count(const qn_race *race) { return race->count + race->count_before; }

double qn_race_mean(const qn_race *race, double deviation) {
  if (race->count == 0) return race->mean_before;
  double median = median_of(race->ratios, (size_t)race->count), sum = 0, reach = 3 * deviation;
  for (int i = 0; i < race->count; i++) {
    double from = race->ratios[i] - median;
    sum += median + (from > reach ? reach : from < -reach ? -reach : from);
  }
  return (sum + race->count_before * race->mean_before) / qn_race_count(race);
}

qn_race_state qn_race_decide(const qn_race *race, double deviation, const qn_race_rules *rules) {
  if (race->count == 0) return QN_RACE_OPEN;
  double gain = log1p(rules->gain), mean = qn_race_mean(race, deviation);
  // ln of the likelihood of these ratios at a mean of `gain`, over that at a mean of 0.
  double likelihood = qn_race_count(race) * gain / (deviation * deviation) * (mean - 0.5 * gain);
  if (likelihood >= log((1 - rules->false_loss) / rules->false_win)) {
    return race->count >= rules->least ? QN_RACE_WON : QN_RACE_OPEN;
  }
  return likelihood <= log(rules->false_loss / (1 - rules->false_win)) ? QN_RACE_LOST : QN_RACE_OPEN;
}
