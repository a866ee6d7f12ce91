// What quantising a model did to each of its matrices, as a table on stderr.
#ifndef QUERN_CLI_QUANT_TABLE_H
#define QUERN_CLI_QUANT_TABLE_H

#include "frontend/quern.h"
#include "runtime/base/vec.h"

typedef struct cli_quant_row {
  quern_quantized what;  // its texts are static but for the tensor's name
  char *name;            // owned
} cli_quant_row;

typedef struct cli_quant_table {
  QN_VEC(cli_quant_row) rows;
  bool failed;  // out of memory: the table is not whole
} cli_quant_table;

// A quern_quantized_fn whose context is a cli_quant_table (zero-initialised).
void cli_quant_table_add(void *context, const quern_quantized *tensor);
// Every matrix where `all`; those that did not become what was asked for in any case; then a summary. Nothing where no
// matrix was told of.
void cli_quant_table_print(const cli_quant_table *table, bool all);
void cli_quant_table_free(cli_quant_table *table);

#endif
