// The table of --quant. Rows are kept until the compilation has ended, since progress is drawn meanwhile.
#include "frontend/cli/quant_table.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"

void cli_quant_table_add(void *context, const quern_quantized *tensor) {
  cli_quant_table *table = context;
  cli_quant_row row = {.what = *tensor, .name = strdup(tensor->tensor)};
  if (row.name && qn_vec_push(qn_allocator_default(), &table->rows, row)) return;
  free(row.name);
  table->failed = true;
}

enum { NAMES_SHOWN = 4 };

static void print_row(const cli_quant_row *row, int width) {
  const quern_quantized *w = &row->what;
  char shape[48];
  snprintf(shape, sizeof shape, "%" PRId64 " x %" PRId64, w->rows, w->columns);
  fprintf(stderr, "  %-*s  %-6s  %-6s  %16s  ", width, row->name, w->from, w->to, shape);
  if (w->kept) {
    fprintf(stderr, "%s\n", w->kept);
  } else {
    fprintf(stderr, "%9.4f %%  %9.3g", 100.0 * w->relative_rms, w->max_error);
    if (strcmp(w->to, w->asked) != 0) fprintf(stderr, "  instead of %s", w->asked);
    fputc('\n', stderr);
  }
}

static void print_rows(const cli_quant_table *table) {
  int width = (int)strlen("tensor");
  for (size_t i = 0; i < table->rows.count; i++) {
    int length = (int)strlen(table->rows.items[i].name);
    if (length > width) width = length < 64 ? length : 64;
  }
  fprintf(stderr, "  %-*s  %-6s  %-6s  %16s  %11s  %9s\n", width, "tensor", "from", "to", "rows x columns", "RMS error",
          "max error");
  for (size_t i = 0; i < table->rows.count; i++) print_row(&table->rows.items[i], width);
}

static bool fell_back(const quern_quantized *w) { return !w->kept && strcmp(w->to, w->asked) != 0; }

// The matrices from row `first` on that fell back as it did, in one line: some by name.
static void print_fallback(const cli_quant_table *table, size_t first) {
  const quern_quantized *w = &table->rows.items[first].what;
  size_t named = 0, count = 0;
  fprintf(stderr, "quern: warning: rows of %" PRId64 " values cannot become %s; %s instead for", w->columns, w->asked,
          w->to);
  for (size_t i = first; i < table->rows.count; i++) {
    const quern_quantized *other = &table->rows.items[i].what;
    if (!fell_back(other) || other->columns != w->columns) continue;
    if (count++ < NAMES_SHOWN) fprintf(stderr, "%s %s", named++ ? "," : "", table->rows.items[i].name);
  }
  if (count > named) fprintf(stderr, " and %zu more", count - named);
  fputc('\n', stderr);
}

// What the format asked for does not fit, one line for all rows of a length.
static void print_fallbacks(const cli_quant_table *table) {
  for (size_t i = 0; i < table->rows.count; i++) {
    const quern_quantized *w = &table->rows.items[i].what;
    bool told = false;
    for (size_t j = 0; j < i; j++) {
      const quern_quantized *before = &table->rows.items[j].what;
      told |= fell_back(before) && before->columns == w->columns;
    }
    if (fell_back(w) && !told) print_fallback(table, i);
  }
}

static void print_summary(const cli_quant_table *table) {
  size_t quantised = 0, worst = 0;
  double before = 0, after = 0, squares = 0;
  for (size_t i = 0; i < table->rows.count; i++) {
    const quern_quantized *w = &table->rows.items[i].what;
    before += (double)w->bytes_before;
    after += (double)w->bytes_after;
    if (w->kept) continue;
    quantised++;
    squares += w->relative_rms * w->relative_rms;
    if (w->relative_rms > table->rows.items[worst].what.relative_rms || table->rows.items[worst].what.kept) worst = i;
  }
  const char *asked = table->rows.items[0].what.asked;
  if (quantised == 0) {
    fprintf(stderr, "quern: warning: nothing was quantised to %s: %zu matrices are left as they are (%s)\n", asked,
            table->rows.count, table->rows.items[0].what.kept);
    return;
  }
  fprintf(stderr,
          "quern: %zu of %zu matrices quantised for %s: %.1f MiB became %.1f, RMS error %.4f %% "
          "(at worst %.4f %%, %s)\n",
          quantised, table->rows.count, asked, before / 1048576, after / 1048576,
          100.0 * sqrt(squares / (double)quantised), 100.0 * table->rows.items[worst].what.relative_rms,
          table->rows.items[worst].name);
}

void cli_quant_table_print(const cli_quant_table *table, bool all) {
  if (table->failed) fprintf(stderr, "quern: warning: out of memory: the table of quantised tensors is not whole\n");
  if (table->rows.count == 0) return;
  if (all) print_rows(table);
  print_fallbacks(table);
  print_summary(table);
}

void cli_quant_table_free(cli_quant_table *table) {
  for (size_t i = 0; i < table->rows.count; i++) free(table->rows.items[i].name);
  qn_vec_free(qn_allocator_default(), &table->rows);
}
