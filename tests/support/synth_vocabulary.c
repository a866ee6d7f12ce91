// Two kinds. SentencePiece: the words "_w", "_w0", "_w1", ... Byte-level BPE: the 256 bytes, then a space with one,
// two, three ... lower-case letters in alphabetical order, each a merge of another token and a letter, then control
// tokens. Either way every word is one character more than another, so that a tokenizer's merges reach all of them.
#include "tests/support/synth_vocabulary.h"

#include <string.h>

static const qn_synth_vocabulary vocabularies[] = {
    {"spm", NULL, 0, NULL, NULL, true},
    {"llama-3", "llama-bpe", 256, "<|begin_of_text|>", "<|end_of_text|>", true},
    {"smollm", "smollm", 17, "<|im_start|>", "<|im_end|>", false},
    {"qwen2", "qwen2", 22, "<|endoftext|>", "<|im_end|>", false},
    {"gpt-2", "gpt-2", 1, "<|endoftext|>", NULL, false},
};

const qn_synth_vocabulary *qn_synth_vocabulary_find(const char *name) {
  for (size_t i = 0; i < QN_COUNT(vocabularies); i++) {
    if (strcmp(vocabularies[i].name, name) == 0) return &vocabularies[i];
  }
  return NULL;
}

enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_BYTE = 6 };  // SentencePiece's token types

// ---- SentencePiece -----------------------------------------------------------------------------------------------

#define SPACE "\xe2\x96\x81"  // U+2581, SentencePiece's visible space

enum { FIRST_BYTE = 3, FIRST_CHAR = FIRST_BYTE + 256, FIRST_WORD = FIRST_CHAR + 1 + 94 + 1 };

// Token `id`: <unk> <s> </s>, 256 bytes, the space, the 94 printable ASCII characters, then the words.
static const char *spm_text(qn_arena *arena, int id, int32_t *out_type) {
  static const char *const special[] = {"<unk>", "<s>", "</s>"};
  *out_type = id == 0 ? TOKEN_UNKNOWN : id < FIRST_BYTE ? TOKEN_CONTROL : id < FIRST_CHAR ? TOKEN_BYTE : TOKEN_NORMAL;
  if (id < FIRST_BYTE) return special[id];
  if (id < FIRST_CHAR) return qn_arena_printf(arena, "<0x%02X>", (unsigned)(id - FIRST_BYTE));
  if (id == FIRST_CHAR) return SPACE;
  if (id < FIRST_WORD - 1) return qn_arena_printf(arena, "%c", '!' + (id - FIRST_CHAR - 1));
  if (id == FIRST_WORD - 1) return SPACE "w";
  return qn_arena_printf(arena, SPACE "w%d", id - FIRST_WORD);
}

static bool add_spm(size_t count, qn_gguf_writer *writer, qn_arena *arena) {
  qn_str *tokens = QN_ARENA_ARRAY(arena, count, qn_str);
  float *scores = QN_ARENA_ARRAY(arena, count, float);
  int32_t *types = QN_ARENA_ARRAY(arena, count, int32_t);
  if (!tokens || !scores || !types) return false;
  for (size_t i = 0; i < count; i++) {
    const char *text = spm_text(arena, (int)i, &types[i]);
    if (!text) return false;
    tokens[i] = qn_str_from(text);
    scores[i] = i < FIRST_CHAR ? 0.0f : -(float)(i - FIRST_CHAR);
  }
  qn_gguf_writer_add_text(writer, "tokenizer.ggml.model", "llama");
  qn_gguf_writer_add_strings(writer, "tokenizer.ggml.tokens", tokens, count);
  qn_gguf_writer_add_array(writer, "tokenizer.ggml.scores", QN_GGUF_F32, scores, count);
  qn_gguf_writer_add_array(writer, "tokenizer.ggml.token_type", QN_GGUF_I32, types, count);
  qn_gguf_writer_add_u32(writer, "tokenizer.ggml.bos_token_id", 1);
  qn_gguf_writer_add_u32(writer, "tokenizer.ggml.eos_token_id", 2);
  qn_gguf_writer_add_u32(writer, "tokenizer.ggml.unknown_token_id", 0);
  return true;
}

// ---- byte-level BPE ----------------------------------------------------------------------------------------------

// GPT-2's letter for a byte, as UTF-8: printable bytes stand for themselves, the others for U+0100 and on, in order.
static const char *byte_letter(qn_arena *arena, int byte) {
  int shifted = 0, code = byte;
  for (int b = 0; b <= byte; b++) {
    bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    if (!printable) code = 0x100 + shifted++;
    if (printable) code = b;
  }
  if (code < 0x80) return qn_arena_printf(arena, "%c", code);
  return qn_arena_printf(arena, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 0x3f));
}

#define BPE_SPACE "\xc4\xa0"  // the letter of a space, U+0120

// Word w (from 0) and the merge that makes it: the space with the word's letters, its last one apart.
static bool bpe_word(qn_arena *arena, size_t w, const char **out_text, const char **out_merge) {
  char letters[16];
  size_t length = 1, at = sizeof letters;
  for (size_t words = 26; w >= words; words *= 26, length++) w -= words;
  letters[--at] = '\0';
  for (size_t i = 0; i < length; i++, w /= 26) letters[--at] = (char)('a' + w % 26);
  int head = (int)length - 1;
  *out_text = qn_arena_printf(arena, BPE_SPACE "%s", letters + at);
  *out_merge = qn_arena_printf(arena, BPE_SPACE "%.*s %c", head, letters + at, letters[at + length - 1]);
  return *out_text && *out_merge;
}

// Control token c's name.
static const char *control_name(const qn_synth_vocabulary *v, qn_arena *arena, size_t c) {
  if (c == 0) return v->bos;
  if (c == 1) return v->eos;
  return qn_arena_printf(arena, "<|reserved_special_token_%zu|>", c - 2);
}

static bool fill_bpe(const qn_synth_vocabulary *v, qn_arena *arena, size_t count, qn_str *tokens, qn_str *merges,
                     int32_t *types) {
  size_t controls = count - (size_t)v->control_count;
  for (size_t i = 0; i < count; i++) {
    const char *text = NULL, *merge = "";
    if (i < 256) {
      text = byte_letter(arena, (int)i);
    } else if (i >= controls) {
      text = control_name(v, arena, i - controls);
    } else if (!bpe_word(arena, i - 256, &text, &merge)) {
      return false;
    }
    if (!text) return false;
    tokens[i] = qn_str_from(text);
    types[i] = i >= controls ? TOKEN_CONTROL : TOKEN_NORMAL;
    if (i >= 256 && i < controls) merges[i - 256] = qn_str_from(merge);
  }
  return true;
}

static bool add_bpe(const qn_synth_vocabulary *v, size_t count, qn_gguf_writer *writer, qn_arena *arena) {
  qn_str *tokens = QN_ARENA_ARRAY(arena, count, qn_str), *merges = QN_ARENA_ARRAY(arena, count, qn_str);
  int32_t *types = QN_ARENA_ARRAY(arena, count, int32_t);
  if (!tokens || !merges || !types || !fill_bpe(v, arena, count, tokens, merges, types)) return false;
  uint32_t bos = (uint32_t)count - (uint32_t)v->control_count;
  qn_gguf_writer_add_text(writer, "tokenizer.ggml.model", "gpt2");
  qn_gguf_writer_add_text(writer, "tokenizer.ggml.pre", v->pre);
  qn_gguf_writer_add_strings(writer, "tokenizer.ggml.tokens", tokens, count);
  qn_gguf_writer_add_array(writer, "tokenizer.ggml.token_type", QN_GGUF_I32, types, count);
  qn_gguf_writer_add_strings(writer, "tokenizer.ggml.merges", merges, bos - 256);
  qn_gguf_writer_add_u32(writer, "tokenizer.ggml.bos_token_id", bos);
  qn_gguf_writer_add_u32(writer, "tokenizer.ggml.eos_token_id", v->eos ? bos + 1 : bos);
  return true;
}

bool qn_synth_vocabulary_add(const qn_synth_vocabulary *vocabulary, size_t count, qn_gguf_writer *writer,
                             qn_arena *arena) {
  bool added = vocabulary->pre ? add_bpe(vocabulary, count, writer, arena) : add_spm(count, writer, arena);
  if (added) qn_gguf_writer_add_bool(writer, "tokenizer.ggml.add_bos_token", vocabulary->add_bos);
  return added;
}
