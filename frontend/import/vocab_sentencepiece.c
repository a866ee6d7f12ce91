// Reading a tokenizer.model: SentencePiece's ModelProto (sentencepiece_model.proto of google/sentencepiece), as far as
// encoding needs it. A protobuf is a list of fields: a number and a wire type, then a varint, four or eight bytes, or a
// length with so many bytes.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "frontend/import/vocab_folder.h"
#include "frontend/import/vocab_steps.h"

// What is left of a message.
typedef struct message {
  const uint8_t *at, *end;
  const uint8_t *begin;  // of the file, for places in messages
  const char *name;
  qn_diag *diag;
} message;

typedef struct field {
  uint64_t number;
  unsigned wire;  // 0 varint, 1 eight bytes, 2 bytes, 5 four bytes
  uint64_t value;
  message bytes;  // wire type 2
} field;

static qn_status fail_at(const message *m, const char *what) {
  return qn_fail(m->diag, QN_ERR_FORMAT, m->name, "byte %zu: not a SentencePiece model: %s", (size_t)(m->at - m->begin),
                 what);
}

static qn_status read_varint(message *m, uint64_t *out) {
  *out = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (m->at == m->end) return fail_at(m, "it ends within a number");
    uint8_t byte = *m->at++;
    *out |= (uint64_t)(byte & 0x7F) << shift;
    if (!(byte & 0x80)) return QN_OK;
  }
  return fail_at(m, "a number has more than 64 bits");
}

static qn_status read_fixed(message *m, size_t bytes, uint64_t *out) {
  *out = 0;
  if ((size_t)(m->end - m->at) < bytes) return fail_at(m, "it ends within a number");
  for (size_t i = 0; i < bytes; i++) *out |= (uint64_t)m->at[i] << (8 * i);
  m->at += bytes;
  return QN_OK;
}

// The next field; *out_any is false at the end.
static qn_status next_field(message *m, field *out, bool *out_any) {
  *out_any = m->at < m->end;
  if (!*out_any) return QN_OK;
  uint64_t key;
  QN_TRY(read_varint(m, &key));
  *out = (field){.number = key >> 3, .wire = (unsigned)(key & 7)};
  if (out->number == 0) return fail_at(m, "a field has number 0");
  switch (out->wire) {
    case 0: return read_varint(m, &out->value);
    case 1: return read_fixed(m, 8, &out->value);
    case 5: return read_fixed(m, 4, &out->value);
    case 2: break;
    default: return fail_at(m, "a field has a wire type that is none");
  }
  QN_TRY(read_varint(m, &out->value));
  if (out->value > (uint64_t)(m->end - m->at)) return fail_at(m, "a text or message ends beyond what holds it");
  out->bytes = (message){m->at, m->at + out->value, m->begin, m->name, m->diag};
  m->at += out->value;
  return QN_OK;
}

// ---- what the fields say -----------------------------------------------------------------------------------------

typedef struct piece {
  qn_str text;
  float score;
  uint8_t type;
} piece;

typedef struct model {
  QN_VEC(piece) pieces;  // arena
  int64_t type;          // 1 unigram, 2 BPE, 3 word, 4 character
  int64_t unk, bos, eos, pad;
  bool suffix, prefix, squeeze, escape;
  qn_str charsmap;
} model;

static qn_str text_of(const message *m) { return (qn_str){(const char *)m->at, (size_t)(m->end - m->at)}; }

static qn_status expect(const message *m, const field *f, unsigned wire) {
  return f->wire == wire ? QN_OK : fail_at(m, "a field has another wire type than it should");
}

static qn_status read_piece(message m, piece *out) {
  field f;
  bool any;
  *out = (piece){.text = {"", 0}, .type = QN_TOKEN_NORMAL};
  for (;;) {
    QN_TRY(next_field(&m, &f, &any));
    if (!any) return QN_OK;
    if (f.number == 1) {
      QN_TRY(expect(&m, &f, 2));
      out->text = text_of(&f.bytes);
    } else if (f.number == 2) {
      QN_TRY(expect(&m, &f, 5));
      uint32_t bits = (uint32_t)f.value;
      memcpy(&out->score, &bits, sizeof bits);
    } else if (f.number == 3) {
      QN_TRY(expect(&m, &f, 0));
      if (f.value < QN_TOKEN_NORMAL || f.value > QN_TOKEN_BYTE) return fail_at(&m, "a piece has a type that is none");
      out->type = (uint8_t)f.value;
    }
  }
}

// Fields of numbers and yes or no, by number.
typedef struct number_field {
  uint64_t number;
  int64_t *value;
  bool *flag;
} number_field;

static qn_status read_numbers(message m, const number_field *fields, size_t count, uint64_t text_number,
                              qn_str *out_text) {
  field f;
  bool any;
  for (;;) {
    QN_TRY(next_field(&m, &f, &any));
    if (!any) return QN_OK;
    for (size_t i = 0; i < count; i++) {
      if (fields[i].number != f.number) continue;
      QN_TRY(expect(&m, &f, 0));
      if (fields[i].value) *fields[i].value = (int32_t)f.value;  // int32: negative ones have all 64 bits
      if (fields[i].flag) *fields[i].flag = f.value != 0;
    }
    if (text_number != 0 && f.number == text_number) {
      QN_TRY(expect(&m, &f, 2));
      *out_text = text_of(&f.bytes);
    }
  }
}

static qn_status read_model(message m, qn_arena *arena, model *out) {
  const number_field trainer[] = {{3, &out->type, NULL}, {24, NULL, &out->suffix}, {40, &out->unk, NULL},
                                  {41, &out->bos, NULL}, {42, &out->eos, NULL},    {43, &out->pad, NULL}};
  const number_field normalizer[] = {{3, NULL, &out->prefix}, {4, NULL, &out->squeeze}, {5, NULL, &out->escape}};
  field f;
  bool any;
  for (;;) {
    QN_TRY(next_field(&m, &f, &any));
    if (!any) return QN_OK;
    if (f.number < 1 || f.number > 3) continue;  // its own tests, what others added
    QN_TRY(expect(&m, &f, 2));
    if (f.number == 1) {
      piece p;
      QN_TRY(read_piece(f.bytes, &p));
      if (!qn_vec_push_arena(arena, &out->pieces, p)) return qn_fail_nomem(m.diag, m.name, "the pieces");
    } else if (f.number == 2) {
      QN_TRY(read_numbers(f.bytes, trainer, QN_COUNT(trainer), 0, NULL));
    } else {
      QN_TRY(read_numbers(f.bytes, normalizer, QN_COUNT(normalizer), 2, &out->charsmap));
    }
  }
}

// ---- the description ---------------------------------------------------------------------------------------------

static qn_status check_model(const model *m, const char *name, qn_diag *diag) {
  static const char *const types[] = {"?", "UNIGRAM", "BPE", "WORD", "CHAR"};
  if (m->pieces.count == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, name, "not a SentencePiece model: it has no pieces");
  }
  if (m->type != 1 && m->type != 2) {
    bool known = m->type >= 0 && m->type < (int64_t)QN_COUNT(types);
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name,
                   "is a SentencePiece model of type %s (%" PRId64 "), want UNIGRAM or BPE",
                   known ? types[m->type] : "?", m->type);
  }
  if (m->suffix || !m->escape) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name, "%s, which is not supported",
                   m->suffix ? "puts white space behind words" : "does not escape white space");
  }
  return QN_OK;
}

static int32_t id_of(const model *m, int64_t id) { return id >= 0 && id < (int64_t)m->pieces.count ? (int32_t)id : -1; }

static qn_status copy_pieces(const model *m, const char *name, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  size_t count = m->pieces.count;
  qn_str *tokens = QN_ARENA_ARRAY(arena, count, qn_str);
  uint8_t *types = QN_ARENA_ARRAY(arena, count, uint8_t);
  float *scores = QN_ARENA_ARRAY(arena, count, float);
  if (!tokens || !types || !scores) return qn_fail_nomem(diag, name, "the pieces");
  for (size_t i = 0; i < count; i++) {
    const piece *p = &m->pieces.items[i];
    tokens[i] = (qn_str){qn_arena_strndup(arena, p->text.data, p->text.length), p->text.length};
    if (!tokens[i].data) return qn_fail_nomem(diag, name, "the pieces");
    // What the user has defined is looked for in the text when its spaces are U+2581.
    types[i] = (uint8_t)(p->type == QN_TOKEN_USER_DEFINED ? p->type | QN_TOKEN_NORMALIZED : p->type);
    scores[i] = p->score;
  }
  out->tokens = tokens;
  out->token_count = count;
  out->types = types;
  out->scores = scores;
  return QN_OK;
}

static qn_status add_around(const model *m, const char *name, qn_arena *arena, qn_tokenizer_desc *out, qn_diag *diag) {
  int32_t *ids = QN_ARENA_ARRAY(arena, 2, int32_t);
  if (!ids) return qn_fail_nomem(diag, name, "the tokens around a text");
  ids[0] = out->bos;
  ids[1] = out->eos;
  out->before = ids;
  out->after = ids + 1;
  out->before_count = m->type == 2 && out->bos >= 0;
  out->after_count = m->type == 1 && out->eos >= 0;
  return QN_OK;
}

qn_status qn_vocab_from_sentencepiece(const void *data, size_t size, const char *name, qn_arena *arena,
                                      qn_tokenizer_desc *out, qn_diag *diag) {
  const uint8_t *bytes = data;
  model m = {.type = 1, .unk = 0, .bos = 1, .eos = 2, .pad = -1, .prefix = true, .squeeze = true, .escape = true};
  *out = (qn_tokenizer_desc){.bos = -1, .eos = -1, .unk = -1, .pad = -1};
  QN_TRY(read_model((message){bytes, bytes + size, bytes, name, diag}, arena, &m));
  QN_TRY(check_model(&m, name, diag));
  out->kind = m.type == 2 ? QN_TOKENIZER_SPM : QN_TOKENIZER_UNIGRAM;
  out->bos = id_of(&m, m.bos);
  out->eos = id_of(&m, m.eos);
  out->unk = id_of(&m, m.unk);
  out->pad = id_of(&m, m.pad);
  out->fuse_unknown = true;
  out->single_precision = m.type == 1;
  QN_TRY(copy_pieces(&m, name, arena, out, diag));
  QN_TRY(add_around(&m, name, arena, out, diag));
  if (m.charsmap.length > 0) {
    out->charsmap = (qn_str){qn_arena_strndup(arena, m.charsmap.data, m.charsmap.length), m.charsmap.length};
    if (!out->charsmap.data) return qn_fail_nomem(diag, name, "the charsmap");
  }
  const qn_sentencepiece_normalizer options = {
      .charsmap = m.charsmap.length > 0, .squeeze = m.squeeze, .prefix = m.prefix};
  qn_step_list list = {.arena = arena};
  qn_step_list_sentencepiece(&list, &options);
  list.normalizer_count = list.steps.count;
  out->decoder = (qn_token_decoder){.byte_tokens = true, .space = QN_STR(QN_SPACE_MARK), .drop_space = m.prefix};
  return qn_step_list_finish(&list, out, diag);
}

bool qn_vocab_is_sentencepiece(const void *data, size_t size) {
  // The first field is a piece, whose first field is its text.
  const uint8_t *bytes = data;
  size_t at = 1;
  if (size < 4 || bytes[0] != 0x0A) return false;
  while (at < size && at < 10 && bytes[at] & 0x80) at++;
  return at + 1 < size && bytes[at + 1] == 0x0A;
}
