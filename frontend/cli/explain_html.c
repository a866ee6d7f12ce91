// The explanation as one page: its styles and plots are in it and it asks for nothing, so that it can be mailed, kept
// and read anywhere. Colours are of a palette that the colour-blind can tell apart (Okabe and Ito 2008), and none says
// what no text says.
#include <string.h>

#include "frontend/cli/explain.h"

const char explain_page_head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<link rel=\"icon\" href=\"data:,\">\n";

const char explain_page_styles[] =
    "<style>\n"
    ":root{color-scheme:light dark;--page:#fbfaf8;--panel:#fff;--ink:#1d1f23;--quiet:#5b6067;--line:#dcdad4;"
    "--c0:#0072b2;--c1:#3a9bd1;--c2:#e69f00;--c3:#b8860b;--c4:#009e73;--c5:#cc79a7;--c6:#d55e00;--c7:#80868e}\n"
    "@media (prefers-color-scheme:dark){:root{--page:#14161a;--panel:#1c1f25;--ink:#e9e8e4;--quiet:#a3a9b2;"
    "--line:#343942;--c0:#3fa0e0;--c1:#7cc5f2;--c2:#f0b840;--c3:#c79a2b;--c4:#2fc498;--c5:#e29ac2;--c6:#f2813a;"
    "--c7:#8f959d}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n"
    "main{max-width:1200px;margin:0 auto;padding:28px 20px 60px}\n"
    "h1{font-size:26px;margin:0 0 2px;font-weight:650}h2{font-size:20px;margin:40px 0 6px;font-weight:650}\n"
    "h3{font-size:15px;margin:22px 0 6px;font-weight:600}p{margin:6px 0;max-width:78ch}.quiet{color:var(--quiet)}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;margin:16px 0}\n"
    ".tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}\n"
    ".tile b{display:block;font-size:20px;font-weight:650;font-variant-numeric:tabular-nums}\n"
    ".tile span{color:var(--quiet);font-size:13px}\n"
    "figure{margin:12px 0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:14px}\n"
    "figcaption{color:var(--quiet);font-size:13px;margin-top:8px}\n"
    "svg{display:block;width:100%;height:auto}svg text{fill:var(--ink);font-size:12.5px}\n"
    "svg text.name{font-family:ui-monospace,monospace;font-size:11.5px}\n"
    ".grid{stroke:var(--line);stroke-width:1}.roof{fill:none;stroke:var(--ink);stroke-width:2}\n"
    ".roof.int8{stroke-dasharray:7 5}.soft{opacity:.32}.point{stroke:var(--panel);stroke-width:1.5;fill-opacity:.88}\n"
    ".c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}"
    ".c5{fill:var(--c5)}.c6{fill:var(--c6)}.c7{fill:var(--c7)}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;"
    "font-variant-numeric:tabular-nums}\n"
    "th,td{padding:5px 5px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\n"
    "th{color:var(--quiet);font-weight:550;vertical-align:bottom}td.text,th.text{text-align:left}\n"
    "td code{font:11.5px ui-monospace,monospace}td.wrap{white-space:normal}\n"
    ".key{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-1px}\n"
    ".k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}"
    ".k4{background:var(--c4)}.k5{background:var(--c5)}.k6{background:var(--c6)}.k7{background:var(--c7)}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0;padding:0;list-style:none;font-size:13px}\n"
    ".largest{font-weight:700}td.nought{color:var(--quiet)}\n"
    "</style>\n";

static double per(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

static void put_tile(qn_buf *out, const char *value, const char *what) {
  qn_buf_printf(out, "<div class=\"tile\"><b>%s</b><span>%s</span></div>\n", value, what);
}

static void put_percent_tile(qn_buf *out, double part, const char *what) {
  char text[32];
  snprintf(text, sizeof text, "%.1f %%", 100 * part);
  put_tile(out, text, what);
}

static void put_limit(qn_buf *out, const char *limit) {
  qn_buf_printf(out, "<span class=\"key k%d\"></span>", explain_colour(limit));
  explain_put_escaped(out, limit);
}

static void put_code(qn_buf *out, const char *text) {
  qn_buf_puts(out, "<code>");
  explain_put_escaped(out, text);
  qn_buf_puts(out, "</code>");
}

// ---- the head of the page

static void put_prediction(const quern_explanation *e, qn_buf *out) {
  qn_buf_puts(out, "</p>\n<p><b>This is </b>");
  explain_put_escaped(out, e->prediction);
  qn_buf_printf(out,
                ". It reads %.0f GB/s and does %.1f TOP/s of int8 on tensor cores and %.1f TFLOP/s of fp32 multiply-adds. "
                "No kernel is faster than its bytes at the one, nor than its operations at the others: that is its "
                "bound.</p>\n",
                1e-9 * e->read_bytes_per_s, 1e-12 * e->int8_ops_per_s, 1e-12 * e->fp32_ops_per_s);
}

static void put_title(const quern_explanation *e, qn_buf *out) {
  qn_buf_puts(out, "<title>quern explain: ");
  explain_put_escaped(out, e->model);
  qn_buf_puts(out, "</title>\n");
  qn_buf_puts(out, explain_page_styles);
  qn_buf_puts(out, "</head>\n<body>\n<main>\n<h1>");
  explain_put_escaped(out, e->model);
  qn_buf_puts(out, "</h1>\n<p class=\"quiet\">");
  explain_put_escaped(out, e->target);
  qn_buf_puts(out, ", ");
  explain_put_threads(e, out);
  qn_buf_puts(out, ", quern ");
  explain_put_escaped(out, e->quern);
  if (e->prediction[0]) {
    put_prediction(e, out);
    return;
  }
  qn_buf_printf(out,
                "</p>\n<p>This machine reads %.2f GB/s and does %.1f GOP/s of int8 dot products (%.1f by codes of few bits) and "
                "%.1f GFLOP/s of fp32 multiply-adds, measured in the same run. No kernel is faster than its bytes at the one, nor than "
                "its operations at the others: that is its bound.</p>\n",
                1e-9 * e->read_bytes_per_s, 1e-9 * e->int8_ops_per_s, 1e-9 * e->narrow_ops_per_s,
                1e-9 * e->fp32_ops_per_s);
  if (!e->lacking[0]) return;
  qn_buf_puts(out, "<p><b>Not this CPU’s best code:</b> it does without ");
  explain_put_escaped(out, e->lacking);
  qn_buf_printf(out, " and reaches %.1f GOP/s (%.1f by codes of few bits) and %.1f GFLOP/s. Compile for <code>",
                1e-9 * e->target_int8_ops_per_s, 1e-9 * e->target_narrow_ops_per_s, 1e-9 * e->target_fp32_ops_per_s);
  explain_put_escaped(out, e->host);
  qn_buf_puts(out, "</code>.</p>\n");
}

static void put_legend(qn_buf *out) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  qn_buf_puts(out, "<ul class=\"legend\" aria-label=\"What limits a kernel\">\n");
  for (size_t i = 0; i < count; i++) {
    qn_buf_puts(out, "<li>");
    put_limit(out, terms[i].name);
    qn_buf_printf(out, " <span class=\"quiet\">%s</span></li>\n", terms[i].meaning);
  }
  qn_buf_puts(out, "</ul>\n");
}

static void put_roofline(const quern_explanation *e, qn_buf *out) {
  qn_buf_puts(out, "<h2>Roofline</h2>\n<figure>\n");
  explain_plot_roofline(e, out);
  qn_buf_puts(out, "<figcaption>");
  for (size_t i = 0; i < e->phase_count; i++) {
    const char *name = e->phases[i].name;
    qn_buf_printf(out, "%s: %s (%c1, %c2, …); ", i == 0 ? "Squares" : "circles", name, name[0], name[0]);
  }
  qn_buf_puts(out,
              "numbers as in the tables below. "
              "The larger, the more of the step’s time; the colour is what limits it. Lines: what memory and the peaks "
              "of fp32 (solid) and int8 (dashed; narrow: by codes of few bits) allow. A kernel that needs nothing from memory is held against the "
              "bytes between kernels, and may lie above the slope, since those are in the caches.</figcaption>\n");
  put_legend(out);
  qn_buf_puts(out, "</figure>\n");
}

// ---- a phase

static void put_tiles(const quern_explanation *e, const quern_phase_report *p, qn_buf *out) {
  char text[32];
  qn_buf_puts(out, "<div class=\"tiles\">\n");
  put_tile(out, explain_time(p->seconds, text), p->tokens == 1 ? "a token" : "the prompt");
  snprintf(text, sizeof text, "%.1f", per((double)p->tokens, p->seconds));
  put_tile(out, text, "tokens a second");
  put_percent_tile(out, p->mbu, "MBU: of the read bandwidth");
  put_percent_tile(out, p->mfu, "MFU: of the peaks");
  put_percent_tile(out, per(p->bound_s, p->seconds), "the bounds of all kernels");
  if (e->prediction[0]) {
    qn_buf_puts(out, "</div>\n");
    return;
  }
  put_percent_tile(out, per(p->outside_s, p->seconds), "outside kernels");
  snprintf(text, sizeof text, "%.0f", p->minor_faults + p->major_faults);
  put_tile(out, text, "page faults");
  qn_buf_puts(out, "</div>\n");
  qn_buf_printf(out,
                "<p class=\"quiet\">The first time took %s with %.0f page faults, %.0f of them read from a disk.</p>\n",
                explain_time(p->first_s, text), p->first_minor_faults + p->first_major_faults, p->first_major_faults);
  if (p->interrupted >= 1)
    qn_buf_printf(out, "<p><b>Other programs took a CPU %.0f times in it:</b> the machine was busy.</p>\n",
                  p->interrupted);
  if (p->stream_bytes_per_s <= e->read_bytes_per_s) return;
  qn_buf_printf(out,
                "<p class=\"quiet\">What a step reads stays in the last cache: its bounds are for %.1f GB/s.</p>\n",
                1e-9 * p->stream_bytes_per_s);
}

static void put_kernel_row(const quern_phase_report *p, size_t i, qn_buf *out) {
  const quern_kernel_report *k = &p->kernels[i];
  char time[24], bound[24];
  qn_buf_printf(out, "<tr><td class=\"text\">%c%zu</td><td class=\"text\">", p->name[0], i + 1);
  put_code(out, k->kernel);
  qn_buf_puts(out, "</td><td class=\"text\">");
  explain_put_escaped(out, k->place);
  qn_buf_printf(out, "</td><td>%.1f %%</td><td>%s</td><td>%s</td><td>%.1f %%</td><td class=\"text\">", 100 * k->share,
                explain_time(k->seconds, time), explain_time(k->bound_s, bound), 100 * k->of_bound);
  put_limit(out, k->limit);
  qn_buf_printf(out, "</td><td>%lld</td><td>%.2f</td><td>%.2f</td><td>%.1f</td><td>%.2f</td><td>%.1f</td></tr>\n",
                (long long)k->calls, 1e-6 * k->memory_bytes, 1e-6 * k->value_bytes, 1e-6 * explain_ops(k),
                1e-9 * per(k->memory_bytes + k->value_bytes, k->seconds), 1e-9 * per(explain_ops(k), k->seconds));
}

static void put_kernel_table(const quern_phase_report *p, qn_buf *out) {
  qn_buf_puts(out,
              "<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\"></th><th class=\"text\">kernel</th>"
              "<th class=\"text\">first called for</th><th>share</th><th>time</th><th>bound</th><th>of bound</th>"
              "<th class=\"text\">limited by</th><th>calls</th><th>MB from<br>memory</th><th>MB between<br>kernels</th>"
              "<th>Mop</th><th>GB/s</th><th>GOP/s</th></tr></thead>\n<tbody>\n");
  for (size_t i = 0; i < p->kernel_count; i++) put_kernel_row(p, i, out);
  qn_buf_puts(out, "</tbody></table></div>\n");
}

static void put_terms_table(const quern_explanation *e, const quern_phase_report *p, qn_buf *out) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  qn_buf_puts(out, "<h3>What the time is made of</h3>\n<p class=\"quiet\">");
  qn_buf_puts(out, e->prediction[0]
                       ? "Parts of the predicted time. They overlap: the largest is the time, but for what it takes to "
                         "start a kernel."
                       : "Parts of the measured time. They overlap: while a kernel reads it also computes. Waiting and "
                         "page faults are measured; the others follow from the code’s instructions and the machine’s "
                         "speeds.");
  qn_buf_puts(out,
              "</p>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\"></th><th class=\"text\">kernel</th>");
  for (size_t t = 0; t < count; t++) qn_buf_printf(out, "<th>%s</th>", terms[t].name);
  qn_buf_puts(out, "<th>predicted</th></tr></thead>\n<tbody>\n");
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    qn_buf_printf(out, "<tr><td class=\"text\">%c%zu</td><td class=\"text\">", p->name[0], i + 1);
    put_code(out, k->kernel);
    qn_buf_puts(out, "</td>");
    for (size_t t = 0; t < count; t++) {
      double part = per(explain_term(k, &terms[t]), k->seconds);
      const char *class = strcmp(terms[t].name, k->limit) == 0 ? "largest" : part < 0.005 ? "nought" : "";
      qn_buf_printf(out, "<td class=\"%s\">%.0f %%</td>", class, 100 * part);
    }
    qn_buf_printf(out, "<td>%.0f %%</td></tr>\n", 100 * per(k->predicted_s, k->seconds));
  }
  qn_buf_puts(out, "</tbody></table></div>\n");
}

static void put_schedule_table(const quern_phase_report *p, qn_buf *out) {
  qn_buf_puts(out,
              "<h3>Schedules, and what tuning tried</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\">"
              "</th><th class=\"text\">code that ran</th><th class=\"text\">schedule</th><th class=\"text\">tuning</th>"
              "</tr></thead>\n<tbody>\n");
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    qn_buf_printf(out, "<tr><td class=\"text\">%c%zu</td><td class=\"text\">", p->name[0], i + 1);
    put_code(out, k->variant);
    qn_buf_puts(out, "</td><td class=\"text wrap\">");
    put_code(out, k->schedule);
    qn_buf_puts(out, "</td><td class=\"text wrap\">");
    explain_put_escaped(out, k->tuning[0] ? k->tuning : "no records");
    qn_buf_puts(out, "</td></tr>\n");
  }
  qn_buf_puts(out, "</tbody></table></div>\n");
}

// "Prefill"; names are ASCII.
static void put_name(const quern_phase_report *p, qn_buf *out) {
  qn_buf_printf(out, "%c%s", p->name[0] - 'a' + 'A', p->name + 1);
}

static void put_phase(const quern_explanation *e, const quern_phase_report *p, qn_buf *out) {
  qn_buf_puts(out, "<h2>");
  put_name(p, out);
  qn_buf_printf(out, "</h2>\n<p class=\"quiet\">%lld token%s after %lld keys.</p>\n", (long long)p->tokens,
                p->tokens == 1 ? "" : "s", (long long)p->depth);
  put_tiles(e, p, out);
  qn_buf_puts(out, "<figure>\n");
  explain_plot_bars(p, out);
  qn_buf_puts(
      out,
      "<figcaption>Time by kernel over all its calls; in full colour the part that the roofline demands. Then the time, "
      "the bound as part of it, and what limits the kernel.</figcaption>\n</figure>\n");
  put_kernel_table(p, out);
  put_terms_table(e, p, out);
  put_schedule_table(p, out);
}

// ---- two runs

static void put_change_row(const quern_kernel_report *now, const quern_kernel_report *before, qn_buf *out) {
  char text[24];
  qn_buf_puts(out, "<tr><td class=\"text\">");
  put_code(out, now ? now->kernel : before->kernel);
  qn_buf_printf(out, "</td><td>%s</td>", before ? explain_time(before->seconds, text) : "–");
  qn_buf_printf(out, "<td>%s</td>", now ? explain_time(now->seconds, text) : "–");
  if (now && before && now->seconds > 0) {
    double ratio = before->seconds / now->seconds;
    qn_buf_printf(out, "<td%s>%.3f ×</td>", ratio > 1.05 || ratio < 0.95 ? " class=\"largest\"" : "", ratio);
  } else {
    qn_buf_printf(out, "<td>%s</td>", now ? "new" : "gone");
  }
  const quern_kernel_report *both[] = {before, now};
  for (size_t i = 0; i < QN_COUNT(both); i++) {
    if (both[i]) {
      qn_buf_printf(out, "<td>%.1f %%</td>", 100 * both[i]->of_bound);
    } else {
      qn_buf_puts(out, "<td>–</td>");
    }
  }
  for (size_t i = 0; i < QN_COUNT(both); i++) {
    qn_buf_puts(out, "<td class=\"text\">");
    if (both[i]) put_limit(out, both[i]->limit);
    qn_buf_puts(out, "</td>");
  }
  qn_buf_puts(out, "</tr>\n");
}

static void put_against(const explain_view *view, size_t phase, qn_buf *out) {
  const quern_phase_report *now = &view->now->phases[phase], *before = &view->before->phases[phase];
  char a[24], b[24];
  qn_buf_puts(out, "<h3>");
  put_name(now, out);
  qn_buf_printf(
      out, "</h3>\n<p>%s, was %s: %.3f times as fast. MBU %.1f %%, was %.1f %%; MFU %.1f %%, was %.1f %%.%s</p>\n",
      explain_time(now->seconds, a), explain_time(before->seconds, b), per(before->seconds, now->seconds), 100 * now->mbu, 100 * before->mbu,
      100 * now->mfu, 100 * before->mfu,
      now->tokens == before->tokens && now->depth == before->depth ? "" : " <b>Not the same work.</b>");
  qn_buf_puts(out,
              "<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\">kernel</th><th>was</th><th>is</th>"
              "<th>faster</th><th>of bound<br>was</th><th>of bound<br>is</th><th class=\"text\">limit was</th>"
              "<th class=\"text\">limit is</th></tr></thead>\n<tbody>\n");
  for (size_t i = 0; i < now->kernel_count; i++)
    put_change_row(&now->kernels[i], explain_find(before, now->kernels[i].kernel), out);
  for (size_t i = 0; i < before->kernel_count; i++) {
    if (!explain_find(now, before->kernels[i].kernel)) put_change_row(NULL, &before->kernels[i], out);
  }
  qn_buf_puts(out, "</tbody></table></div>\n");
}

void explain_put_html(const explain_view *view, qn_buf *out) {
  const quern_explanation *e = view->now;
  qn_buf_puts(out, explain_page_head);
  put_title(e, out);
  put_roofline(e, out);
  for (size_t i = 0; i < e->phase_count; i++) put_phase(e, &e->phases[i], out);
  if (view->before) {
    qn_buf_puts(out, "<h2>Against an earlier run</h2>\n<p class=\"quiet\">");
    explain_put_escaped(out, view->before_path);
    qn_buf_puts(out, ": ");
    explain_put_escaped(out, view->before->model);
    qn_buf_puts(out, ", ");
    explain_put_escaped(out, view->before->target);
    qn_buf_puts(out, ", ");
    explain_put_threads(view->before, out);
    qn_buf_puts(out, "</p>\n");
    for (size_t i = 0; i < e->phase_count; i++) put_against(view, i, out);
  }
  qn_buf_puts(out, "</main>\n</body>\n</html>\n");
}
