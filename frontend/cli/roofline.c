// Draws rooflines: slopes are memory and caches, levels are the peaks, marks are where one token's products lie.
#include "frontend/cli/roofline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/status.h"

enum { MOST_LINES = 8, TEXT_COLUMNS = 64, TEXT_ROWS = 16 };

// Operations a byte, from 2^LOW to 2^HIGH.
#define LOW  (-2.0)
#define HIGH 9.0

// A roof: a slope of bytes a second, or a level of operations a second.
typedef struct roof {
  const char *name;  // in the legend
  char letter;       // in text
  const char *color;
  double bytes, operations;  // one of them is 0
} roof;

typedef struct roofline {
  roof roofs[MOST_LINES];
  int count;
  double bottom, top;  // log2 of operations a second
} roofline;

// Multiply-adds of one token with a matrix: two operations for each weight, which has so many bytes.
static const struct mark {
  const char *name;
  double intensity;
} marks[] = {{"f16", 2 / 2.0}, {"q8_0", 2 / (34 / 32.0)}, {"q4_0", 2 / (18 / 32.0)}};

static void add(roofline *r, const char *name, char letter, const char *color, double bytes, double operations) {
  if (bytes > 0 || operations > 0) r->roofs[r->count++] = (roof){name, letter, color, bytes, operations};
}

static roofline make(const quern_machine_profile *p, int i) {
  roofline r = {.count = 0};
  add(&r, "memory", 'm', "#3366cc", p->read[QUERN_LEVEL_MEMORY][0][i], 0);
  add(&r, "L3", '3', "#5588dd", p->read[QUERN_LEVEL_L3][0][i], 0);
  add(&r, "L2", '2', "#77a7ee", p->read[QUERN_LEVEL_L2][0][i], 0);
  add(&r, "L1", '1', "#99bbff", p->read[QUERN_LEVEL_L1][0][i], 0);
  add(&r, "bf16", 'b', "#cc8800", 0, p->bf16[i]);
  add(&r, "fma", 'f', "#cc4433", 0, p->fma[i]);
  add(&r, "int8", 'i', "#338844", 0, p->int8[i]);
  add(&r, "few bits", 'n', "#55aa66", 0, p->narrow[i]);
  double lowest = INFINITY, highest = 0;
  for (int k = 0; k < r.count; k++) {
    double at = r.roofs[k].operations > 0 ? r.roofs[k].operations : r.roofs[k].bytes * exp2(LOW);
    lowest = at < lowest ? at : lowest;
    highest = r.roofs[k].operations > highest ? r.roofs[k].operations : highest;
  }
  r.bottom = r.count > 0 ? floor(log2(lowest)) : 0;
  r.top = highest > 0 ? log2(highest) + 0.5 : r.bottom + 1;
  return r;
}

static double highest_peak(const roofline *r) {
  double peak = 0;
  for (int k = 0; k < r->count; k++) peak = r->roofs[k].operations > peak ? r->roofs[k].operations : peak;
  return peak;
}

// Log2 of operations a second on that roof. Slopes end at the highest level.
static double height(const roofline *r, const roof *f, double intensity) {
  if (f->operations > 0) return log2(f->operations);
  double slope = f->bytes * intensity, peak = highest_peak(r);
  return log2(slope < peak ? slope : peak);
}

// Levels begin where the fastest slope reaches them.
static bool is_drawn(const roofline *r, const roof *f, double intensity) {
  if (f->operations == 0) return f->bytes * intensity <= highest_peak(r) * 1.1;
  double fastest = 0;
  for (int k = 0; k < r->count; k++) fastest = r->roofs[k].bytes > fastest ? r->roofs[k].bytes : fastest;
  return fastest * intensity >= f->operations;
}

// "512M", "12.5G" operations a second.
static void put_rate(char out[16], double rate) {
  static const char units[] = {' ', 'K', 'M', 'G', 'T', 'P'};
  size_t unit = 0;
  for (; rate >= 1000 && unit + 1 < sizeof units; unit++) rate /= 1000;
  snprintf(out, 16, rate < 10 ? "%.1f%c" : "%.0f%c", rate, units[unit]);
}

// --- text

void cli_roofline_text(const quern_machine_profile *p, int index, qn_buf *out) {
  roofline r = make(p, index);
  char grid[TEXT_ROWS][TEXT_COLUMNS];
  memset(grid, ' ', sizeof grid);
  for (int column = 0; column < TEXT_COLUMNS; column++) {
    double intensity = exp2(LOW + (HIGH - LOW) * column / (TEXT_COLUMNS - 1));
    for (int k = r.count - 1; k >= 0; k--) {
      if (!is_drawn(&r, &r.roofs[k], intensity)) continue;
      double part = (height(&r, &r.roofs[k], intensity) - r.bottom) / (r.top - r.bottom);
      int row = TEXT_ROWS - 1 - (int)lround(part * (TEXT_ROWS - 1));
      if (row >= 0 && row < TEXT_ROWS) grid[row][column] = r.roofs[k].letter;
    }
  }
  qn_buf_printf(out, "operations a second, %d thread%s\n", p->thread_counts[index],
                p->thread_counts[index] > 1 ? "s" : "");
  for (int row = 0; row < TEXT_ROWS; row++) {
    char label[16] = "";
    int length = TEXT_COLUMNS;
    if (row % 3 == 0) put_rate(label, exp2(r.top - (r.top - r.bottom) * row / (TEXT_ROWS - 1)));
    while (length > 0 && grid[row][length - 1] == ' ') length--;
    qn_buf_printf(out, "%8s |%.*s\n", label, length, grid[row]);
  }
  qn_buf_printf(out, "%8s +", "");
  for (int column = 0; column < TEXT_COLUMNS; column++) qn_buf_putc(out, '-');
  char scale[TEXT_COLUMNS + 8];
  memset(scale, ' ', sizeof scale);
  for (double x = LOW; x <= HIGH; x += 1) {
    char number[16];
    int at = (int)lround((x - LOW) / (HIGH - LOW) * (TEXT_COLUMNS - 1));
    int length = snprintf(number, sizeof number, "%g", exp2(x));
    memcpy(scale + at, number, (size_t)length);
  }
  qn_buf_printf(out, "\n%10s%.*s\n%10soperations a byte;", "", TEXT_COLUMNS + 3, scale, "");
  for (int k = 0; k < r.count; k++) qn_buf_printf(out, "%s %c %s", k ? "," : "", r.roofs[k].letter, r.roofs[k].name);
  qn_buf_printf(out, "\n%10sone token:", "");
  for (size_t i = 0; i < QN_COUNT(marks); i++)
    qn_buf_printf(out, "%s %s at %.2g", i ? "," : "", marks[i].name, marks[i].intensity);
  qn_buf_putc(out, '\n');
}

// --- SVG

enum { WIDTH = 760, HEIGHT = 460, LEFT = 70, RIGHT = 120, ABOVE = 40, BELOW = 60, LINE = 13 };

static double svg_x(double log_intensity) {
  return LEFT + (log_intensity - LOW) / (HIGH - LOW) * (WIDTH - LEFT - RIGHT);
}
static double svg_y(const roofline *r, double log_rate) {
  return HEIGHT - BELOW - (log_rate - r->bottom) / (r->top - r->bottom) * (HEIGHT - ABOVE - BELOW);
}

static void put_axes(const roofline *r, qn_buf *out) {
  for (double x = LOW; x <= HIGH; x += 1)
    qn_buf_printf(out,
                  "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>"
                  "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                  svg_x(x), ABOVE, svg_x(x), HEIGHT - BELOW, svg_x(x), HEIGHT - BELOW + 16, exp2(x));
  for (double y = ceil(r->bottom); y <= r->top; y += 1) {
    char label[16];
    put_rate(label, exp2(y));
    qn_buf_printf(out,
                  "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>"
                  "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                  LEFT, svg_y(r, y), WIDTH - RIGHT, svg_y(r, y), LEFT - 6, svg_y(r, y) + 4, label);
  }
}

// Where a level's name stands: beside it, or below the name of one that is as high and comes before.
static double label_y(const roofline *r, const roof *f) {
  double y = svg_y(r, log2(f->operations));
  for (const roof *other = r->roofs; other < f; other++)
    if (other->operations > 0 && fabs(svg_y(r, log2(other->operations)) - y) < LINE) y = label_y(r, other) + LINE;
  return y;
}

// From where it is seen to where it is not.
static void put_roof(const roofline *r, const roof *f, qn_buf *out) {
  double peak = highest_peak(r), fastest = 0, from = LOW, to = HIGH;
  for (int k = 0; k < r->count; k++) fastest = r->roofs[k].bytes > fastest ? r->roofs[k].bytes : fastest;
  if (f->operations > 0) {
    from = fmax(LOW, log2(f->operations / fastest));
  } else {
    to = fmin(HIGH, log2(peak / f->bytes));
  }
  double a = height(r, f, exp2(from)), b = height(r, f, exp2(to));
  char rate[16];
  put_rate(rate, f->operations > 0 ? f->operations : f->bytes);
  qn_buf_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"/>\n",
                svg_x(from), svg_y(r, a), svg_x(to), svg_y(r, b), f->color);
  if (f->operations > 0) {
    qn_buf_printf(out, "<text x=\"%d\" y=\"%.1f\">%s %s/s</text>\n", WIDTH - RIGHT + 6, label_y(r, f) + 4, f->name,
                  rate);
    return;
  }
  double x = svg_x(from + 0.3), y = svg_y(r, height(r, f, exp2(from + 0.3)));
  double angle = atan2(svg_y(r, a) - svg_y(r, b), svg_x(to) - svg_x(from)) * 180 / M_PI;
  qn_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" dy=\"-5\" transform=\"rotate(%.1f %.1f %.1f)\">%s %sB/s</text>\n", x,
                y, -angle, x, y, f->name, rate);
}

static void put_marks(qn_buf *out) {
  for (size_t i = 0; i < QN_COUNT(marks); i++) {
    double x = svg_x(log2(marks[i].intensity));
    qn_buf_printf(out,
                  "<line class=\"mark\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>"
                  "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                  x, ABOVE, x, HEIGHT - BELOW, x, ABOVE - 6 - 12 * (int)(i % 2), marks[i].name);
  }
}

static void put_escaped(qn_buf *out, const char *text) {
  for (; *text; text++) {
    switch (*text) {
      case '<': qn_buf_puts(out, "&lt;"); break;
      case '>': qn_buf_puts(out, "&gt;"); break;
      case '&': qn_buf_puts(out, "&amp;"); break;
      default: qn_buf_putc(out, *text);
    }
  }
}

void cli_roofline_svg(const quern_machine_profile *p, int index, qn_buf *out) {
  roofline r = make(p, index);
  qn_buf_printf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                "font-size=\"12\">\n"
                "<style>text{fill:#222}.back{fill:#fff}.grid{stroke:#ddd}.mark{stroke:#888;stroke-dasharray:3 4}"
                "@media (prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#181818}.grid{stroke:#3a3a3a}}</style>\n"
                "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n<title>",
                WIDTH, HEIGHT, WIDTH, HEIGHT);
  put_escaped(out, p->cpu[0] ? p->cpu : "this machine");
  qn_buf_printf(out, ": roofline of %d threads</title>\n", p->thread_counts[index]);
  put_axes(&r, out);
  put_marks(out);
  for (int k = 0; k < r.count; k++) put_roof(&r, &r.roofs[k], out);
  qn_buf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations a byte (", (LEFT + WIDTH - RIGHT) / 2,
                HEIGHT - 22);
  put_escaped(out, p->cpu[0] ? p->cpu : "this machine");
  qn_buf_printf(out, ", %d thread%s; dashed: products of one token)</text>\n</svg>\n", p->thread_counts[index],
                p->thread_counts[index] > 1 ? "s" : "");
}
