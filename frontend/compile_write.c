// What a compilation made → the artifact: its texts, programs and code.
#include <inttypes.h>
#include <string.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/kernel_facts.h"

// A line of the summary, whose value may come from anybody.
static void put_value(qn_buf *s, const char *key, const char *value) {
  qn_buf_printf(s, "%s = ", key);
  qn_put_one_line(s, qn_str_from(value));
  qn_buf_putc(s, '\n');
}

static void put_schedule(const qn_pvariant *variant, size_t plan, bool gpu, qn_buf *out) {
  qn_buf_printf(out, "\n# plan %zu, schedule of %s\n", plan, variant->kernel->name);
  if (gpu) {
    qn_gpu_schedule_print(&variant->gpu, out);
  } else {
    qn_schedule_print(&variant->schedule, out);
  }
}

// Every plan of a part with the targets that it is for and the schedules of its variants.
static void put_schedules(quern_compilation *c, size_t part_index) {
  quern_part *part = &c->parts[part_index];
  qn_buf *out = &part->kernels_text;
  for (size_t p = 0; p < part->plan_count; p++) {
    qn_buf_printf(out, "\n# plan %zu:", p);
    for (size_t i = 0; i < c->target_count; i++)
      if (c->part_of[i] == part_index && c->plan_of[i] == p) qn_buf_printf(out, " %s", c->targets[i].name);
    qn_buf_putc(out, '\n');
    for (size_t i = 0; i < c->target_count; i++)
      if (c->part_of[i] == part_index && c->plan_of[i] == p)
        qn_buf_append(out, qn_buf_text(&c->evidence[i]), c->evidence[i].length);
    for (size_t i = 0; i < part->pass.program->kernels.count; i++) {
      const qn_pkernel *kernel = &part->plans[p].kernels[i];
      for (int v = 0; v < kernel->variant_count; v++) put_schedule(&kernel->variants[v], p, part->gpu, out);
    }
  }
}

// What the records say of the kernels for CPUs: nothing when out of memory, which makes a cached artifact a stale one.
static void put_tuning_state(const quern_compilation *c, qn_buf *out) {
  const qn_program *program = c->parts[0].pass.program;
  if (c->parts[0].gpu) return;
  const char **signatures = qn_alloc(c->allocator, (program->kernels.count + 1) * sizeof *signatures);
  if (!signatures) return;
  for (size_t i = 0; i < program->kernels.count; i++) signatures[i] = program->kernels.items[i].signature;
  quern_tuned_state state = quern_tuned_get_state(&c->tuned, signatures, program->kernels.count);
  qn_free(c->allocator, signatures, (program->kernels.count + 1) * sizeof *signatures);
  if (state.records) qn_buf_printf(out, "tuning = %016" PRIx64 "\n", state.records);
  if (state.machine) qn_buf_printf(out, "machine = %016" PRIx64 "\n", state.machine);
}

static qn_status make_texts_of(quern_compilation *c, size_t part_index) {
  quern_part *part = &c->parts[part_index];
  qn_graph_print(part->pass.graph, &part->graph_text);
  qn_program_print(part->pass.program, &part->kernels_text);
  put_schedules(c, part_index);
  quern_put_kernels(part->pass.graph, part->pass.program, &part->kernels_text);
  bool failed = part->graph_text.failed || part->kernels_text.failed;
  return failed ? qn_fail_nomem(c->diag, "artifact", "its texts") : QN_OK;
}

static qn_status make_texts(quern_compilation *c, const char *model_path) {
  qn_buf *s = &c->summary;
  const qn_pass_context *first = &c->parts[0].pass;
  put_value(s, "quern", QUERN_VERSION);
  put_value(s, "model", quern_compilation_name(c));
  put_value(s, "architecture", quern_compilation_architecture(c));
  put_value(s, "source", model_path);
  put_value(s, "numeric_mode", c->half_activations ? "half" : c->quantize_activations ? "int8" : "f32");
  put_value(s, "kv_type", c->options->kv_type ? c->options->kv_type : QUERN_DEFAULT_KV_TYPE);
  if (c->evict_policy) put_value(s, "kv_evict", c->evict_policy->name);
  if (c->quantize.format) put_value(s, "quantised_to", c->quantize.format->name);
  qn_buf_printf(s, "chunk_tokens = %" PRId64 "\ncontext_tokens = %" PRId64 "\n", first->program->max_values[QN_SYM_T],
                c->context_tokens);
  for (size_t i = 0; i < c->target_count; i++) qn_buf_printf(s, "target = %s\n", c->targets[i].name);
  put_tuning_state(c, s);
  if (c->import) qn_import_describe(c->import, s);
  quern_put_cost(first->graph, first->program, s);
  for (size_t i = 0; i < c->part_count; i++) QN_TRY(make_texts_of(c, i));
  return s->failed ? qn_fail_nomem(c->diag, model_path, "the artifact's summary") : QN_OK;
}

// Signs the file that the writer has written.
static qn_status sign(quern_compilation *c, qn_file_writer *writer, uint64_t offset) {
  qn_mapping mapping;
  uint8_t signature[QN_ART_SIGNATURE_BYTES];
  QN_TRY(quern_compilation_report(c, "signing", 0, 0));
  QN_TRY(qn_file_writer_flush(writer));
  QN_TRY(qn_mapping_open_fd(&mapping, writer->fd, writer->path, c->diag));
  qn_status status = qn_signature_make(&c->key, mapping.data, mapping.size, signature, c->diag);
  qn_mapping_close(&mapping);
  return status == QN_OK ? qn_file_writer_write_at(writer, offset, signature, sizeof signature) : status;
}

qn_status quern_compilation_check_weights(const quern_compilation *c) {
  return c->import ? qn_import_check(c->import, c->diag) : QN_OK;
}

qn_status quern_write_artifact(quern_compilation *c, const char *model_path, qn_file_writer *writer, bool with_code) {
  QN_TRY(make_texts(c, model_path));
  qn_artifact_code codes[QUERN_MAX_TARGETS];
  qn_artifact_program programs[QN_COUNT(c->parts)];
  for (size_t i = 0; i < c->target_count; i++) {
    codes[i] = (qn_artifact_code){&c->targets[i], &c->codes[i], (uint32_t)c->part_of[i], (uint32_t)c->plan_of[i]};
  }
  for (size_t i = 0; i < c->part_count; i++) {
    const quern_part *part = &c->parts[i];
    programs[i] = (qn_artifact_program){.machine = part->gpu ? QN_ART_GPU : QN_ART_CPU,
                                        .program = part->pass.program,
                                        .plans = part->plans,
                                        .plan_count = part->plan_count,
                                        .graph_text = qn_buf_text(&part->graph_text),
                                        .kernels_text = qn_buf_text(&part->kernels_text)};
  }
  qn_weight_source weights = quern_compilation_weights(c);
  qn_artifact_spec spec = {.programs = programs,
                           .program_count = c->part_count,
                           .weights = &weights,
                           .codes = codes,
                           .code_count = with_code ? c->target_count : 0,
                           .tokenizer = c->tokenizer.length ? c->tokenizer.data : NULL,
                           .tokenizer_size = c->tokenizer.length,
                           .chat = c->chat.length ? c->chat.data : NULL,
                           .chat_size = c->chat.length,
                           .summary = qn_buf_text(&c->summary),
                           .vocab_size = (uint32_t)quern_compilation_vocab_size(c),
                           .context_tokens = (uint32_t)c->context_tokens,
                           .start = c->import ? (uint32_t)(qn_import_start(c->import) + 1) : 0,
                           .public_key = c->has_key ? c->key.public_key : NULL,
                           .progress = quern_compilation_pack_progress,
                           .progress_context = c};
  QN_TRY(qn_artifact_write(writer, &spec, c->allocator, c->diag));
  QN_TRY(quern_compilation_check_weights(c));
  return c->has_key ? sign(c, writer, spec.signature_offset) : QN_OK;
}
