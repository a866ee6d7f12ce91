// Text to token ids and back: BPE (byte-level or not), SentencePiece BPE and unigram, WordPiece, each after a list of steps
// that the vocabulary brings. A vocabulary is serialised once into a flat, position-independent blob (the artifact's
// TOKENIZER section) and opened in place.
#ifndef QN_TOKENIZER_H
#define QN_TOKENIZER_H

#include "runtime/base/diag.h"
#include "runtime/base/vec.h"
#include "runtime/base/vocabulary.h"

// A growing list of token ids: zero-initialise; free with qn_vec_free and the allocator it was filled with.
typedef QN_VEC(int32_t) qn_token_vec;

// Writes the blob of a vocabulary to the end of `out`.
// Errors: FORMAT (the vocabulary contradicts itself: an id out of range, a score that is not finite, an empty merge, a step
// of no sense), UNSUPPORTED (a pattern that PCRE2 does not take; the text says where and why), ARGUMENT, NOMEM, LIMIT (more
// than 2^24 tokens or merges, 64 steps, or 2^31 bytes).
QN_CHECKED qn_status qn_tokenizer_serialize(const qn_tokenizer_desc *desc, const qn_allocator *allocator, qn_buf *out,
                                            qn_diag *diag);

// ---- opening -----------------------------------------------------------------------------------------------------

// Never changes after opening: any number of threads may use one at the same time.
typedef struct qn_tokenizer qn_tokenizer;

// Opens a blob in place: `blob` (any alignment) stays the caller's and must outlive *out, which the caller owns. The
// blob is not trusted: every offset, count and id in it is checked; one that lies consistently gives wrong tokens, not
// bad memory accesses. Errors: FORMAT, UNSUPPORTED (version, a pattern), NOMEM.
QN_CHECKED qn_status qn_tokenizer_open(const void *blob, size_t size, const qn_allocator *allocator, qn_tokenizer **out,
                                       qn_diag *diag);
void qn_tokenizer_close(qn_tokenizer *tokenizer);  // NULL is harmless

qn_tokenizer_kind qn_tokenizer_get_kind(const qn_tokenizer *tokenizer);
const char *qn_tokenizer_kind_name(qn_tokenizer_kind kind);  // "spm", "bpe", ...; static
int32_t qn_tokenizer_count(const qn_tokenizer *tokenizer);  // ids are 0 .. count-1
// -1 where the vocabulary has none.
int32_t qn_tokenizer_bos(const qn_tokenizer *tokenizer);
int32_t qn_tokenizer_eos(const qn_tokenizer *tokenizer);
int32_t qn_tokenizer_unk(const qn_tokenizer *tokenizer);
int32_t qn_tokenizer_pad(const qn_tokenizer *tokenizer);
bool qn_tokenizer_adds_bos(const qn_tokenizer *tokenizer);
bool qn_tokenizer_adds_eos(const qn_tokenizer *tokenizer);
// True for ids that end a generation: eos, eot, eom and what is known by name ("<|im_end|>", "<|eot_id|>", ...).
// Ids out of range are not.
bool qn_tokenizer_is_eog(const qn_tokenizer *tokenizer, int32_t id);
// QN_TOKEN_UNDEFINED for ids out of range.
qn_token_type qn_tokenizer_type(const qn_tokenizer *tokenizer, int32_t id);
// The bytes a token stands for, whatever its type: " Hello" for "▁Hello" and "ĠHello", "\n" for "<0x0A>" and "Ċ",
// "<s>" for "<s>". Not always valid UTF-8 on its own. Borrowed from the blob; empty for ids out of range.
qn_str qn_tokenizer_piece(const qn_tokenizer *tokenizer, int32_t id);
// The token that stands for exactly these bytes (byte tokens are not looked at; of several, a normal one before a
// control one and then the lowest id), or -1; looks at all tokens.
int32_t qn_tokenizer_find(const qn_tokenizer *tokenizer, qn_str bytes);

// ---- encoding ----------------------------------------------------------------------------------------------------

typedef enum qn_encode_flags {
  QN_ENCODE_SPECIAL = 1,        // put BOS / EOS at the ends if the vocabulary says so
  QN_ENCODE_PARSE_SPECIAL = 2,  // "<s>" in the text becomes the control token; otherwise it is plain text
} qn_encode_flags;

// Appends the tokens of `text` to *tokens in O(n log n) for n bytes; on failure *tokens is as it was.
//
// Special tokens in the text are cut out first, from the left, of those that begin at one place the longest (user-defined
// ones always, control and unknown ones with QN_ENCODE_PARSE_SPECIAL); plain text never becomes a control token. Any bytes
// are accepted: those that are not UTF-8 pass the steps as they are and become byte tokens or, in byte-level vocabularies,
// a word, so decoding gives them back. Errors: UNSUPPORTED (a byte that the vocabulary cannot express, and it has no
// unknown token), LIMIT (text of 1 GiB or more, one that grows beyond 2 GiB while it is normalised, or a pattern's engine
// gave up), NOMEM.
QN_CHECKED qn_status qn_tokenizer_encode(const qn_tokenizer *tokenizer, qn_str text, unsigned flags,
                                         const qn_allocator *allocator, qn_token_vec *tokens, qn_diag *diag);

// ---- decoding ----------------------------------------------------------------------------------------------------

typedef enum qn_decode_flags {
  QN_DECODE_SPECIAL = 1,    // render control and unknown tokens as their text; otherwise they render as nothing
  QN_DECODE_CONTINUES = 2,  // the tokens continue a text: keep the leading space (see below)
} qn_decode_flags;

// Appends the bytes of all tokens to `out`. Where the vocabulary adds a space before a text (SPM), one leading space of
// the first token that renders as anything is dropped, so that decode(encode(x)) is x. Errors: ARGUMENT (an id out of
// range), NOMEM.
QN_CHECKED qn_status qn_tokenizer_decode(const qn_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                         unsigned flags, qn_buf *out, qn_diag *diag);

// A detokeniser for a stream of tokens: hands out whole characters only. Allocates nothing after init.
typedef struct qn_detokenizer {
  const qn_tokenizer *tokenizer;  // borrowed
  const qn_allocator *allocator;  // borrowed
  char *buffer;                   // owned: held-back bytes and one piece
  size_t capacity, held;          // held: bytes of an unfinished character at buffer[0]
  size_t given;                   // bytes of buffer handed out by the last call
  unsigned flags;
  bool at_start;
} qn_detokenizer;

QN_CHECKED qn_status qn_detokenizer_init(qn_detokenizer *detokenizer, const qn_tokenizer *tokenizer, unsigned flags,
                                         const qn_allocator *allocator, qn_diag *diag);
void qn_detokenizer_deinit(qn_detokenizer *detokenizer);
// Takes the next token; *out_text is the text that is complete now, borrowed until the next call, maybe empty. An
// unfinished UTF-8 sequence at its end is held back; bytes that can no longer become UTF-8 are passed through as they
// are. Errors: ARGUMENT (an id out of range; nothing is taken).
QN_CHECKED qn_status qn_detokenizer_push(qn_detokenizer *detokenizer, int32_t id, qn_str *out_text, qn_diag *diag);
// The end of the stream: gives out what is held back, as it is, and starts anew.
qn_str qn_detokenizer_flush(qn_detokenizer *detokenizer);

#endif
