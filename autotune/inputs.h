// A kernel made ready to run outside of its program: buffers for each of its parameters, filled by what the parameter
// is. To check code, with data chosen to find mistakes; to time it, with tame data. Every buffer ends before a page
// that nobody may touch, and what is left between is watched.
#ifndef QN_AUTOTUNE_INPUTS_H
#define QN_AUTOTUNE_INPUTS_H

#include "ir/program.h"

// A kernel and what its parameters are.
typedef struct qn_subject {
  const qn_lkernel *plain;       // borrowed: as lowered
  const qn_pbuf *const *params;  // borrowed: what each parameter's buffer is; offsets, names of tensors do not matter
  qn_symbol rows;                // the symbol that row counts are values of; NONE = the kernel has one variant
  int64_t run_tokens;            // attention: tokens that share a tile (qn_pkernel); 0 = another kernel
  int64_t max_values[QN_SYM_COUNT];  // the largest values of symbols; 0 = any
} qn_subject;

// Of a step of a lowered program; the array of parameters is the arena's.
QN_CHECKED qn_status qn_subject_of_step(const qn_program *program, const qn_pstep *step, qn_arena *arena,
                                        qn_subject *out, qn_diag *diag);

// Values of the symbols for a step of `rows` tokens (all of whose logits are wanted). `sequences` shares them out, as
// far as the program allows so many; each has room for `keys` keys and its tokens.
void qn_subject_symbols(const qn_subject *subject, int64_t rows, int64_t keys, int64_t sequences,
                        int64_t out[QN_SYM_COUNT]);

// Memory of exactly `size` bytes that begins at a multiple of 64 and ends within 63 bytes of a page that faults. The
// bytes between, and those before it, hold a pattern.
typedef struct qn_guarded {
  uint8_t *data;
  size_t size;
  uint8_t *mapping;  // owned: a guard page, whole pages, a guard page
  size_t mapping_size;
} qn_guarded;
QN_CHECKED qn_status qn_guarded_create(size_t size, qn_guarded *out, qn_diag *diag);
void qn_guarded_destroy(qn_guarded *guarded);     // zeroed is harmless
void qn_guarded_seal(const qn_guarded *guarded);  // writes the pattern around it anew
// Takes away the right to write to it. False when the system refuses.
bool qn_guarded_protect(const qn_guarded *guarded);
// Where the pattern around it was overwritten: the distance from its start, negative before it. False: nowhere.
bool qn_guarded_touched(const qn_guarded *guarded, int64_t *out_at);

typedef enum qn_inputs_use {
  // Rows of random values, of blocks of very different sizes, extreme, tiny, zero, with one value alone, with
  // infinities
  // and NaN; row 0 has the kind that the seed says (0 random, then the others), further rows all kinds. Scales of
  // quantised weights random, extreme, denormal and zero, codes random and all extreme. Keys that no token may see, and
  // pages that no sequence has, are NaN. What is written is filled with a pattern that depends on the place alone.
  QN_INPUTS_CHECK,
  QN_INPUTS_TIME,  // normal numbers of ordinary size everywhere
} qn_inputs_use;
enum { QN_INPUTS_KINDS = 7 };  // seeds 0 .. 6 give row 0 each kind of values once

typedef struct qn_inputs {
  const qn_allocator *allocator;  // borrowed
  qn_subject subject;
  int64_t symbols[QN_SYM_COUNT];
  uint64_t seed;
  size_t count;         // of parameters
  qn_guarded *buffers;  // owned: one a parameter, of exactly the bytes that the kernel may touch
  bool *borrowed;       // owned: the buffer is another's
} qn_inputs;

// `weights_of` (NULL = none) lends its weights, which do not depend on symbols; it must be of the same kernel and
// outlive this. Errors: NOMEM; UNSUPPORTED for a kernel with a cache whose positions have not the runtime's name.
QN_CHECKED qn_status qn_inputs_create(const qn_subject *subject, const int64_t symbols[QN_SYM_COUNT], uint64_t seed,
                                      qn_inputs_use use, const qn_inputs *weights_of, const qn_allocator *allocator,
                                      qn_inputs **out, qn_diag *diag);
void qn_inputs_destroy(qn_inputs *inputs);  // NULL is harmless
// The pattern that a parameter which is written holds at the beginning (QN_INPUTS_CHECK); its byte at one place.
void qn_inputs_poison(size_t param, uint8_t *data, size_t size);
uint8_t qn_inputs_poison_byte(size_t param, size_t at);

// Fills a packed weight with legal values: what qn_inputs_create does with one. `size` is the packed size.
QN_CHECKED qn_status qn_inputs_fill_weight(const qn_pbuf *weight, uint64_t seed, qn_inputs_use use, uint8_t *data,
                                           size_t size, const qn_allocator *allocator, qn_diag *diag);
// Fills `count` values of a row of activations (f32), or a row of `width` of a8.
void qn_inputs_fill_row(uint64_t seed, int kind, float *out, int64_t count);
void qn_inputs_fill_a8(uint64_t seed, int kind, uint8_t *out, int64_t width);
// Which kind row `row` has.
int qn_inputs_kind(uint64_t seed, int64_t row, qn_inputs_use use);

// A parameter's size in elements: constants, symbols, + and *; -1 when it overflows or is anything else.
int64_t qn_param_elements(const qn_lexpr *elements, const int64_t symbols[QN_SYM_COUNT]);
// A dimension, and the elements of all but the first; INT64_MAX when they overflow.
int64_t qn_dim_at(qn_dim dim, const int64_t symbols[QN_SYM_COUNT]);
int64_t qn_row_width(const qn_type *type, const int64_t symbols[QN_SYM_COUNT]);

#endif
