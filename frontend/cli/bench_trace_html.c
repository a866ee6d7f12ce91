// The page of a replayed trace: the table, the time to the first token by the prompt's length, goodput by rate. Like the
// explanation's it asks for nothing, and what a plot says stands in a table, too.
#include <math.h>
#include <stdio.h>

#include "frontend/cli/bench_trace.h"
#include "frontend/cli/explain.h"

enum { WIDTH = 960, HEIGHT = 420, LEFT = 80, RIGHT = 30, TOP = 20, BOTTOM = 56 };

// A plot's area in its own units; `x_log`: decades along x.
typedef struct area {
  double x_min, x_max, y_max;
  bool x_log;
} area;

static double x_of(const area *a, double x) {
  double from = a->x_log ? log10(a->x_min) : a->x_min, to = a->x_log ? log10(a->x_max) : a->x_max;
  return LEFT + (WIDTH - LEFT - RIGHT) * ((a->x_log ? log10(x) : x) - from) / (to - from);
}
static double y_of(const area *a, double y) { return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / a->y_max; }

// 1, 2 or 5 times a power of ten: about five of them make `most`.
static double tick_of(double most) {
  double power = pow(10, floor(log10(most / 5))), times = most / 5 / power;
  return power * (times < 1.5 ? 1 : times < 3.5 ? 2 : times < 7.5 ? 5 : 10);
}

static void put_x_tick(const area *a, double x, qn_buf *out) {
  qn_buf_printf(out,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" "
                "text-anchor=\"middle\">%g</text>\n",
                x_of(a, x), TOP, x_of(a, x), HEIGHT - BOTTOM, x_of(a, x), HEIGHT - BOTTOM + 18, x);
}

static void put_axes(const area *a, const char *x_name, const char *y_name, qn_buf *out) {
  for (double y = 0, tick = tick_of(a->y_max); y <= a->y_max * 1.0001; y += tick) {
    qn_buf_printf(out,
                  "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                  "text-anchor=\"end\">%g</text>\n",
                  LEFT, y_of(a, y), WIDTH - RIGHT, y_of(a, y), LEFT - 8, y_of(a, y) + 4, y);
  }
  if (a->x_log) {
    for (double x = pow(2, ceil(log2(a->x_min))); x <= a->x_max; x *= 2) put_x_tick(a, x, out);
  } else {
    for (double x = 0, tick = tick_of(a->x_max); x <= a->x_max * 1.0001; x += tick) put_x_tick(a, x, out);
  }
  qn_buf_printf(out,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text><text transform=\"translate(18 %d) rotate(-90)\" "
                "text-anchor=\"middle\">%s</text>\n",
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_name, (TOP + HEIGHT - BOTTOM) / 2, y_name);
}

static int colour(quern_batching batching) {
  static const int colours[TRACE_BATCHINGS] = {0, 2, 6};
  return colours[batching];
}

static void put_legend(const bench_traces *t, qn_buf *out) {
  qn_buf_puts(out, "<ul class=\"legend\">\n");
  for (size_t i = 0; i < t->batching_count; i++) {
    qn_buf_printf(out, "<li><span class=\"key k%d\"></span>%s</li>\n", colour(t->batchings[i]),
                  bench_trace_batching(t->batchings[i]));
  }
  qn_buf_puts(out, "</ul>\n");
}

static void begin_figure(const char *label, qn_buf *out) {
  qn_buf_printf(out, "<figure>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, HEIGHT, label);
}

// --- TTFT by prompt length: the last trace of each way of batching

static bool has_token(const trace_outcome *o) { return o->status == 0 && o->tokens > 0; }

static void put_ttft(const bench_traces *t, qn_buf *out) {
  area a = {.x_min = 1e18, .x_log = true};
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    for (size_t j = 0; j < r->outcomes.count; j++) {
      double prompt = (double)r->trace->requests.items[j].prompt, y = r->outcomes.items[j].first - r->trace->requests.items[j].at;
      if (!has_token(&r->outcomes.items[j])) continue;
      a.x_min = prompt < a.x_min ? prompt : a.x_min;
      a.x_max = prompt > a.x_max ? prompt : a.x_max;
      a.y_max = 1e3 * y > a.y_max ? 1e3 * y : a.y_max;
    }
  }
  if (a.y_max <= 0) return;
  a.x_min *= 0.9;
  a.x_max *= 1.1;
  qn_buf_puts(out, "<h2>Time to the first token</h2>\n");
  put_legend(t, out);
  begin_figure("Time to the first token by the length of the prompt", out);
  put_axes(&a, "tokens of the prompt", "TTFT, ms", out);
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    if (r->trace != &t->traces[t->count - 1]) continue;
    for (size_t j = 0; j < r->outcomes.count; j++) {
      const trace_request *q = &r->trace->requests.items[j];
      if (!has_token(&r->outcomes.items[j])) continue;
      qn_buf_printf(out, "<circle class=\"c%d point\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>\n", colour(r->batching),
                    x_of(&a, (double)q->prompt), y_of(&a, 1e3 * (r->outcomes.items[j].first - q->at)));
    }
  }
  qn_buf_puts(out, "</svg>\n<figcaption>Every request of the trace with the highest rate.</figcaption>\n</figure>\n");
}

// --- goodput by rate

static double goodput(const trace_run *r) { return r->seconds > 0 ? (double)r->within / r->seconds : 0; }

static void put_curve(const bench_traces *t, const area *a, quern_batching batching, qn_buf *out) {
  qn_buf_printf(out, "<polyline fill=\"none\" stroke=\"var(--c%d)\" stroke-width=\"2\" points=\"", colour(batching));
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    if (r->batching == batching) qn_buf_printf(out, "%.1f,%.1f ", x_of(a, r->trace->rate), y_of(a, goodput(r)));
  }
  qn_buf_puts(out, "\"/>\n");
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    if (r->batching != batching) continue;
    qn_buf_printf(out, "<circle class=\"c%d point\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>\n", colour(batching),
                  x_of(a, r->trace->rate), y_of(a, goodput(r)));
  }
}

static void put_goodput(const bench_traces *t, qn_buf *out) {
  area a = {0};
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    a.x_max = r->trace->rate > a.x_max ? r->trace->rate : a.x_max;
    a.y_max = goodput(r) > a.y_max ? goodput(r) : a.y_max;
  }
  if (a.x_max <= 0 || a.y_max <= 0) return;  // a file's trace has no rate
  a.x_max *= 1.05;
  a.y_max *= 1.05;
  qn_buf_puts(out, "<h2>Goodput</h2>\n");
  put_legend(t, out);
  begin_figure("Requests a second that got what the objective promises, by the rate at which they come", out);
  put_axes(&a, "requests that come, a second", "requests within the objective, a second", out);
  for (size_t i = 0; i < t->batching_count; i++) put_curve(t, &a, t->batchings[i], out);
  qn_buf_puts(out, "</svg>\n</figure>\n");
}

// --- the page

static void put_row(const trace_run *r, qn_buf *out) {
  double unused = r->stats.slots > 0 ? 100 * (double)r->stats.slots_unused / (double)r->stats.slots : 0;
  qn_buf_printf(out, "<tr><td class=\"text\">%s</td>", bench_trace_batching(r->batching));
  if (r->trace->rate > 0) {
    qn_buf_printf(out, "<td>%g</td>", r->trace->rate);
  } else {
    qn_buf_puts(out, "<td class=\"nought\">file</td>");
  }
  qn_buf_printf(out, "<td>%.1f</td><td>%.2f</td><td>%.1f</td><td>%.1f</td><td>%.2f</td><td>%.2f</td><td>%.1f</td>"
                     "<td>%.1f %%</td><td>%.1f %%</td><td>%.2f</td><td>%lld</td><td>%lld</td></tr>\n",
                r->seconds > 0 ? (double)r->generated / r->seconds : 0, goodput(r), 1e3 * bench_median(&r->ttft),
                1e3 * bench_percentile(&r->ttft, 0.99), 1e3 * bench_median(&r->tpot),
                1e3 * bench_percentile(&r->tpot, 0.99), bench_median(&r->users), unused,
                100 * bench_trace_accepted(r), bench_trace_per_pass(r), (long long)r->failed,
                (long long)r->stats.preemptions);
}

void bench_trace_put_html(const bench_traces *t, qn_buf *out) {
  qn_buf_puts(out, explain_page_head);
  qn_buf_puts(out, "<title>quern bench --trace</title>\n");
  qn_buf_puts(out, explain_page_styles);
  qn_buf_puts(out, "</head>\n<body>\n<main>\n<h1>");
  explain_put_escaped(out, quern_model_name(t->b->model));
  qn_buf_puts(out, "</h1>\n<p class=\"quiet\">");
  explain_put_escaped(out, quern_model_target(t->b->model));
  qn_buf_printf(out, ", %zu requests, %d at a time, trace ", t->traces[0].requests.count, (int)t->session.sequences);
  explain_put_escaped(out, t->b->options->trace);
  if (t->b->options->slo) {
    qn_buf_puts(out, ", objective ");
    explain_put_escaped(out, t->b->options->slo);
  }
  if (t->b->options->speculate) {
    qn_buf_puts(out, ", guesses by ");
    explain_put_escaped(out, t->b->options->speculate);
  }
  qn_buf_puts(out, "</p>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\">batching</th><th>requests/s</th>"
                   "<th>tokens/s</th><th>goodput/s</th><th>TTFT p50 ms</th><th>p99</th><th>TPOT p50 ms</th><th>p99</th>"
                   "<th>tokens/s<br>a user</th><th>unused<br>slots</th><th>guesses<br>accepted</th><th>tokens<br>a pass</th><th>failed</th><th>preempted</th></tr></thead>\n"
                   "<tbody>\n");
  for (size_t i = 0; i < t->runs.count; i++) put_row(&t->runs.items[i], out);
  qn_buf_puts(out, "</tbody></table></div>\n");
  put_goodput(t, out);
  put_ttft(t, out);
  qn_buf_puts(out, "</main>\n</body>\n</html>\n");
}
