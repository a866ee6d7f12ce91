// What the parts of `quern explain` share: the table for people, the JSON, the page and its plots.
#ifndef QUERN_CLI_EXPLAIN_H
#define QUERN_CLI_EXPLAIN_H

#include "frontend/cli/cli.h"

// Two explanations side by side: `before` may be NULL.
typedef struct explain_view {
  const quern_explanation *now, *before;
  const char *before_path;  // the file that `before` is from
  bool terms;               // the table of terms, too
} explain_view;

// The term's seconds of a kernel.
double explain_term(const quern_kernel_report *kernel, const quern_explain_term *term);
// The kernel of that name in a phase; NULL when there is none.
const quern_kernel_report *explain_find(const quern_phase_report *phase, const char *kernel);
// Operations of all kinds.
double explain_ops(const quern_kernel_report *kernel);
// "9.06 ms", "12.3 us"; returns `out`, which has room for 24.
const char *explain_time(double seconds, char *out);

// "2 threads"; "predicted".
void explain_put_threads(const quern_explanation *e, qn_buf *out);

void explain_put_text(const explain_view *view, qn_buf *out);
void explain_put_json(const quern_explanation *e, qn_buf *out);
// One page that needs nothing else: styles and plots are in it.
void explain_put_html(const explain_view *view, qn_buf *out);

// What every page of ours begins with, up to the styles.
extern const char explain_page_head[], explain_page_styles[];

// Plots of the page, as SVG (explain_plot.c).
void explain_plot_bars(const quern_phase_report *phase, qn_buf *out);
void explain_plot_roofline(const quern_explanation *e, qn_buf *out);
// Text for HTML: <, >, &, quotes, and what is not UTF-8 are made harmless.
void explain_put_escaped(qn_buf *out, const char *text);
// The class of a limit's colour, "c0" to "c7".
int explain_colour(const char *limit);

#endif
