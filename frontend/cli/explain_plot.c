// The plots of the explanation's page, as SVG: colours are classes, so that the page's styles choose them for light and
// dark; everything that a plot says stands in a table beside it, too.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/cli/explain.h"

void explain_put_escaped(qn_buf *out, const char *text) {
  size_t length = strlen(text);
  for (size_t i = 0; i < length;) {
    size_t n = qn_utf8_sequence(text + i, length - i, NULL);
    unsigned char c = (unsigned char)text[i];
    if (n == 0 || (c < 0x20 && c != '\n') || c == 0x7F) {
      qn_buf_puts(out, "&#xfffd;");
    } else if (strchr("<>&\"'", c)) {
      qn_buf_printf(out, "&#%d;", c);
    } else {
      qn_buf_append(out, text + i, n);
    }
    i += n ? n : 1;
  }
}

int explain_colour(const char *limit) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(terms[i].name, limit) == 0) return (int)i;
  }
  return (int)count - 1;
}

// ---- bars: the time of every kernel, of which the roofline's part is in full colour

enum { BAR_WIDTH = 960, BAR_LEFT = 300, BAR_RIGHT = 250, BAR_ROW = 26, BARS_MOST = 16 };

static void put_bar(const quern_kernel_report *k, size_t row, double most, qn_buf *out) {
  double width = BAR_WIDTH - BAR_LEFT - BAR_RIGHT, y = (double)(row * BAR_ROW) + 4;
  double whole = width * k->seconds / most, part = width * k->bound_s / most;
  char time[24], name[48];
  if (whole < 1) whole = 1;
  if (part > whole) part = whole;
  snprintf(name, sizeof name, strlen(k->kernel) > 38 ? "%.36s…" : "%s", k->kernel);
  qn_buf_printf(out, "<text class=\"name\" x=\"%d\" y=\"%.0f\" text-anchor=\"end\">", BAR_LEFT - 10, y + 13);
  explain_put_escaped(out, name);
  int colour = explain_colour(k->limit);
  qn_buf_printf(out,
                "</text><rect class=\"c%d soft\" x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"18\" rx=\"2\"/>"
                "<rect class=\"c%d\" x=\"%d\" y=\"%.0f\" width=\"%.1f\" height=\"18\" rx=\"2\"/>",
                colour, BAR_LEFT, y, whole, colour, BAR_LEFT, y, part);
  qn_buf_printf(out, "<text x=\"%.1f\" y=\"%.0f\">%s · %.0f %% · ", BAR_LEFT + whole + 8, y + 13,
                explain_time(k->seconds, time), 100 * k->of_bound);
  explain_put_escaped(out, k->limit);
  qn_buf_puts(out, "</text>\n");
}

void explain_plot_bars(const quern_phase_report *phase, qn_buf *out) {
  size_t count = phase->kernel_count < BARS_MOST ? phase->kernel_count : BARS_MOST;
  double most = count ? phase->kernels[0].seconds : 0;
  if (count == 0 || most <= 0) return;
  qn_buf_printf(out,
                "<svg viewBox=\"0 0 %d %zu\" role=\"img\" aria-label=\"Time by kernel in %s, the roofline's part "
                "in full colour; the table beside it has the numbers\">\n",
                BAR_WIDTH, count * BAR_ROW + 4, phase->name);
  for (size_t i = 0; i < count; i++) put_bar(&phase->kernels[i], i, most, out);
  qn_buf_puts(out, "</svg>\n");
}

// ---- the roofline: operations a second over operations a byte, both logarithmic

enum {
  ROOF_WIDTH = 960,
  ROOF_HEIGHT = 460,
  ROOF_LEFT = 72,
  ROOF_RIGHT = 24,
  ROOF_TOP = 20,
  ROOF_BOTTOM = 52,
  LABELS = 6
};

typedef struct axes {
  double x_min, x_max, y_min, y_max;  // powers of ten
} axes;

static double x_of(const axes *a, double intensity) {
  return ROOF_LEFT + (log10(intensity) - a->x_min) / (a->x_max - a->x_min) * (ROOF_WIDTH - ROOF_LEFT - ROOF_RIGHT);
}
static double y_of(const axes *a, double rate) {
  return ROOF_HEIGHT - ROOF_BOTTOM -
         (log10(rate) - a->y_min) / (a->y_max - a->y_min) * (ROOF_HEIGHT - ROOF_TOP - ROOF_BOTTOM);
}

// Bytes from memory; of a kernel that needs none, those between kernels.
static bool point_of(const quern_kernel_report *k, double *out_intensity, double *out_rate) {
  double bytes = k->memory_bytes > 0 ? k->memory_bytes : k->value_bytes, ops = explain_ops(k);
  if (bytes <= 0 || ops <= 0 || k->seconds <= 0) return false;
  *out_intensity = ops / bytes;
  *out_rate = ops / k->seconds;
  return true;
}

static axes axes_of(const quern_explanation *e) {
  double top = fmax(fmax(e->int8_ops_per_s, e->narrow_ops_per_s), e->fp32_ops_per_s);
  axes a = {-1, log10(top / e->read_bytes_per_s) + 1, log10(e->fp32_ops_per_s) - 2, log10(top) + 0.3};
  for (size_t p = 0; p < e->phase_count; p++) {
    for (size_t i = 0; i < e->phases[p].kernel_count; i++) {
      double intensity, rate;
      if (!point_of(&e->phases[p].kernels[i], &intensity, &rate)) continue;
      if (log10(intensity) < a.x_min) a.x_min = log10(intensity);
      if (log10(intensity) > a.x_max) a.x_max = log10(intensity);
      if (log10(rate) < a.y_min) a.y_min = log10(rate);
      if (log10(rate) > a.y_max) a.y_max = log10(rate);
    }
  }
  return (axes){floor(a.x_min), ceil(a.x_max), floor(a.y_min), a.y_max + 0.1};
}

static void put_axes(const axes *a, qn_buf *out) {
  double bottom = ROOF_HEIGHT - ROOF_BOTTOM, right = ROOF_WIDTH - ROOF_RIGHT;
  for (double p = a->x_min; p <= a->x_max + 1e-9; p++) {
    double x = x_of(a, pow(10, p));
    qn_buf_printf(out,
                  "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                  "text-anchor=\"middle\">%g</text>\n",
                  x, ROOF_TOP, x, bottom, x, bottom + 18, pow(10, p));
  }
  for (double p = ceil(a->y_min); p <= a->y_max + 1e-9; p++) {
    double y = y_of(a, pow(10, p));
    qn_buf_printf(out,
                  "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                  "text-anchor=\"end\">%g</text>\n",
                  ROOF_LEFT, y, right, y, ROOF_LEFT - 8, y + 4, pow(10, p - 9));
  }
  qn_buf_printf(out,
                "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">operations a byte</text>"
                "<text transform=\"translate(16 %.1f) rotate(-90)\" text-anchor=\"middle\">GOP/s</text>\n",
                0.5 * (ROOF_LEFT + right), ROOF_HEIGHT - 10, 0.5 * (ROOF_TOP + bottom));
}

// A roof: the slope of memory up to a peak, then level.
static void put_roof(const axes *a, double read, double peak, const char *name, const char *class, qn_buf *out) {
  double start = pow(10, a->x_min), knee = peak / read, from = read * start;
  if (from < pow(10, a->y_min)) {
    from = pow(10, a->y_min);
    start = from / read;
  }
  double right = ROOF_WIDTH - ROOF_RIGHT;
  qn_buf_printf(out, "<polyline class=\"roof %s\" points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f\"/>\n", class, x_of(a, start),
                y_of(a, from), x_of(a, knee), y_of(a, peak), right, y_of(a, peak));
  qn_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s %.0f GOP/s</text>\n", right, y_of(a, peak) - 6,
                name, 1e-9 * peak);
}

static double radius_of(const quern_kernel_report *k) { return 4 + 12 * sqrt(k->share > 1 ? 1 : k->share); }

// Where names of points stand already.
typedef struct labels {
  double x[16], y[16];
  size_t count;
} labels;

// Moves a name down until it is on none before it.
static double place_label(labels *l, double x, double y) {
  for (size_t i = 0; i < l->count;) {
    bool apart = fabs(l->x[i] - x) > 24 || fabs(l->y[i] - y) > 13;
    if (!apart) y = l->y[i] + 14;
    i = apart ? i + 1 : 0;
  }
  if (l->count < QN_COUNT(l->x)) {
    l->x[l->count] = x;
    l->y[l->count++] = y;
  }
  return y;
}

static void put_points(const axes *a, const quern_phase_report *phase, bool round, qn_buf *out) {
  for (size_t i = phase->kernel_count; i-- > 0;) {  // the largest on top
    const quern_kernel_report *k = &phase->kernels[i];
    double intensity, rate;
    if (!point_of(k, &intensity, &rate)) continue;
    double x = x_of(a, intensity), y = y_of(a, rate), r = radius_of(k);
    int colour = explain_colour(k->limit);
    qn_buf_puts(out, "<g>");
    if (round) {
      qn_buf_printf(out, "<circle class=\"c%d point\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>", colour, x, y, r);
    } else {
      qn_buf_printf(out, "<rect class=\"c%d point\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", colour,
                    x - r * 0.89, y - r * 0.89, r * 1.77, r * 1.77);
    }
    qn_buf_puts(out, "<title>");
    explain_put_escaped(out, k->kernel);
    qn_buf_printf(out, ": %.3g operations a byte, %.1f GOP/s, %.0f %% of its bound</title>", intensity, 1e-9 * rate,
                  100 * k->of_bound);
    qn_buf_puts(out, "</g>\n");
  }
}

static void put_labels(const axes *a, const quern_phase_report *phase, labels *l, qn_buf *out) {
  for (size_t i = 0; i < phase->kernel_count && i < LABELS; i++) {
    const quern_kernel_report *k = &phase->kernels[i];
    double intensity, rate;
    if (!point_of(k, &intensity, &rate)) continue;
    double x = x_of(a, intensity) + radius_of(k) + 3, y = place_label(l, x, y_of(a, rate) + 4);
    qn_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\">%c%zu</text>\n", x, y, phase->name[0], i + 1);
  }
}

void explain_plot_roofline(const quern_explanation *e, qn_buf *out) {
  if (e->read_bytes_per_s <= 0 || e->fp32_ops_per_s <= 0 || e->int8_ops_per_s <= 0) return;
  axes a = axes_of(e);
  qn_buf_printf(out,
                "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Roofline: operations a second over operations a "
                "byte; the tables below have the numbers\">\n",
                ROOF_WIDTH, ROOF_HEIGHT);
  put_axes(&a, out);
  put_roof(&a, e->read_bytes_per_s, e->int8_ops_per_s, "int8", "int8", out);
  if (e->narrow_ops_per_s > 1.02 * e->int8_ops_per_s)
    put_roof(&a, e->read_bytes_per_s, e->narrow_ops_per_s, "narrow int8", "int8", out);
  put_roof(&a, e->read_bytes_per_s, e->fp32_ops_per_s, "fp32", "fp32", out);
  labels placed = {.count = 0};
  for (size_t i = 0; i < e->phase_count; i++) put_points(&a, &e->phases[i], i != 0, out);
  for (size_t i = 0; i < e->phase_count; i++) put_labels(&a, &e->phases[i], &placed, out);
  qn_buf_puts(out, "</svg>\n");
}
