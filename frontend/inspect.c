// quern_inspect: reads the list of parts; inspect_artifact.c and inspect_model.c describe what they are of.
#include "frontend/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compile.h"
#include "frontend/quern.h"

const char *const inspect_part_names[INSPECT_PART_COUNT] = {
    [INSPECT_SUMMARY] = "summary", [INSPECT_METADATA] = "metadata", [INSPECT_SECTIONS] = "sections",
    [INSPECT_TARGETS] = "targets", [INSPECT_MEMORY] = "memory",     [INSPECT_TENSORS] = "tensors",
    [INSPECT_KERNELS] = "kernels", [INSPECT_GRAPH] = "graph",       [INSPECT_LOOPS] = "loops",
    [INSPECT_CHECK] = "check"};

const char *inspect_size(uint64_t bytes, char out[32]) {
  static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 10240) {
    snprintf(out, 32, "%" PRIu64 " bytes", bytes);
    return out;
  }
  double value = (double)bytes / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < QN_COUNT(units); unit++) value /= 1024;
  snprintf(out, 32, "%.1f %s", value, units[unit]);
  return out;
}

void inspect_put_text(qn_buf *out, qn_str text) {
  size_t begin = 0;
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if ((c >= 0x20 && c != 0x7F) || c == '\n' || c == '\t') continue;
    qn_buf_append(out, text.data + begin, i - begin);
    qn_buf_printf(out, "\\x%02x", c);
    begin = i + 1;
  }
  qn_buf_append(out, text.data + begin, text.length - begin);
}

// --- the list of parts

typedef struct part_list {
  bool wanted[INSPECT_PART_COUNT];
  bool all;  // those that the file has
  int count;
} part_list;

static qn_status parse_parts(const char *what, part_list *out, qn_diag *diag) {
  *out = (part_list){0};
  for (const char *at = what ? what : "summary"; *at;) {
    size_t length = strcspn(at, ",");
    int part = 0;
    while (part < INSPECT_PART_COUNT &&
           (strlen(inspect_part_names[part]) != length || memcmp(inspect_part_names[part], at, length) != 0)) {
      part++;
    }
    if (part < INSPECT_PART_COUNT) {
      out->count += !out->wanted[part];
      out->wanted[part] = true;
    } else if (length == 3 && memcmp(at, "all", 3) == 0) {
      out->all = true;
    } else {
      return qn_fail(diag, QN_ERR_ARGUMENT, "what",
                     "got '%.*s', want summary, metadata, sections, targets, memory, tensors, kernels, graph, loops, "
                     "check or all, with commas between them",
                     (int)(length < 40 ? length : 40), at);
    }
    at += length + (at[length] == ',');
  }
  return out->count || out->all ? QN_OK : qn_fail(diag, QN_ERR_ARGUMENT, "what", "got nothing, want a part's name");
}

// A heading tells parts apart where there are several.
static void begin_part(const part_list *parts, inspect_part part, qn_buf *out) {
  if (parts->count > 1 || parts->all) qn_buf_printf(out, "%s# %s\n", out->length ? "\n" : "", inspect_part_names[part]);
}

static qn_status describe_artifact(const inspection *to, const part_list *parts) {
  inspect_artifact *artifact = NULL;
  QN_TRY(inspect_artifact_open(to, &artifact));
  qn_status status = QN_OK;
  for (int part = 0; part < INSPECT_PART_COUNT && status == QN_OK; part++) {
    if (!parts->wanted[part] && !(parts->all && part != INSPECT_CHECK)) continue;
    begin_part(parts, (inspect_part)part, to->out);
    status = inspect_artifact_part(artifact, (inspect_part)part);
  }
  inspect_artifact_close(artifact);
  return status;
}

static qn_status describe_model(const inspection *to, const part_list *parts) {
  inspect_model *model = NULL;
  QN_TRY(inspect_model_open(to, &model));
  qn_status status = QN_OK;
  for (int part = 0; part < INSPECT_PART_COUNT && status == QN_OK; part++) {
    if (!parts->wanted[part] && !(parts->all && inspect_model_has(model, (inspect_part)part))) continue;
    begin_part(parts, (inspect_part)part, to->out);
    status = inspect_model_part(model, (inspect_part)part);
  }
  if (status == QN_OK) status = inspect_model_check(model);
  inspect_model_close(model);
  return status;
}

int quern_inspect(const char *path, const char *what, char **out_text, quern_error *error) {
  qn_diag diag = {0};
  qn_buf text;
  part_list parts;
  *out_text = NULL;
  qn_buf_init(&text, qn_allocator_default());
  inspection to = {.path = path, .allocator = qn_allocator_default(), .out = &text, .diag = &diag};
  qn_status status = parse_parts(what, &parts, &diag);
  if (status == QN_OK) status = quern_is_artifact(path) ? describe_artifact(&to, &parts) : describe_model(&to, &parts);
  if (status == QN_OK && !text.failed) *out_text = strdup(qn_buf_text(&text));
  if (status == QN_OK && !*out_text) status = qn_fail_nomem(&diag, path, "its description");
  qn_buf_deinit(&text);
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", diag.text);
  }
  return (int)status;
}
