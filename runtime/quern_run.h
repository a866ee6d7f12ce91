// quern_run: runs a compiled model (model.qn). The second public header of quern, complete in itself; link
// libquern_run, which needs no LLVM. Compiling is in quern.h.
//
// Conventions. Functions that can fail return a quern_status and, in *error (which may be NULL), the same code and a
// sentence: what, where, got and want. Option structs are filled with zeros for the defaults, but for `size`, which is
// their sizeof: so a library may know more options than the program that was compiled for an earlier one (ARGUMENT when
// it knows fewer and one of the others is used). A NULL pointer to one means the defaults. Strings are UTF-8, given
// with their length unless they are const char *. What a function hands out is borrowed from the object it came from,
// unless it says otherwise.
//
// How this interface grows. Structs that a caller sets a `size` in, and those that the library makes and hands out one by
// one (quern_request_result, quern_quantized, quern_verified, quern_tune_progress, quern_explanation), may get fields behind
// all that they have: a caller of an earlier library has a smaller size, and is asked for and given so much; of a result
// what an earlier library does not know is zeros. All other structs stay as they are. Functions and enumerators are added,
// and none changes or goes, under one version of the symbols. Before the first release this is no promise yet; a test holds
// it against what is written down so far (tests/golden/abi.txt).
//
// Threads. A model never changes once it is open: any number of threads and sessions may use one at the same time, but
// for closing it. A session is for one thread at a time (only quern_session_cancel may be called from any); it brings
// worker threads of its own. Several models and sessions may be open in one process. A text that a function without a
// model or session returns is static.
#ifndef QUERN_RUN_H
#define QUERN_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)  // what is declared here is what the shared library exports

// The codes are also the exit codes of the program `quern`.
typedef enum quern_status {
  QUERN_OK = 0,
  QUERN_ERR_ARGUMENT = 2,     // the caller asked for something that makes no sense
  QUERN_ERR_FORMAT = 3,       // a file is truncated, damaged or hostile
  QUERN_ERR_UNSUPPORTED = 4,  // well formed, but not something quern does
  QUERN_ERR_IO = 5,           // the operating system refused to read or map
  QUERN_ERR_NOMEM = 6,        // out of memory
  QUERN_ERR_TARGET = 7,       // the code needs a CPU feature, a device or a driver that is not here; the text names it
  QUERN_ERR_LIMIT = 8,        // a size does not suffice: context, buffer, tokens a step
  QUERN_ERR_CANCELLED = 9,    // a callback asked to stop
  QUERN_ERR_INTERNAL = 10     // a bug of quern
} quern_status;

typedef struct quern_error {
  int code;         // a quern_status
  char text[1024];  // NUL-terminated; empty when there was no error
} quern_error;

// A stable lower-case word for a status: "format".
const char *quern_status_name(int status);

// ---- the host's memory and messages -------------------------------------------------------------------------------

// Where memory comes from. `reallocate` works as in Lua: pointer NULL allocates, new_size 0 frees and returns NULL,
// anything else resizes; old_size is what was asked for at the last call. It returns NULL when there is no memory, the
// old block untouched; blocks are aligned as malloc's are. It may be called by several threads at the same time.
// Not from there come weights and KV caches, which are mapped from the system, and the machine code of PCRE2's patterns; what
// hwloc, libcuda and libsodium keep, once a process, since they ask no allocator of ours; and a few bytes by malloc for each
// file that is mapped or written (its name; its line in the list that the handler of SIGBUS reads, which belongs to no model).
typedef struct quern_allocator {
  void *context;  // given to every call
  void *(*reallocate)(void *context, void *pointer, size_t old_size, size_t new_size);
} quern_allocator;

typedef enum quern_log_level {
  QUERN_LOG_ERROR,
  QUERN_LOG_WARNING,
  QUERN_LOG_INFO,
  QUERN_LOG_DEBUG
} quern_log_level;
// `text` is one message, NUL-terminated, without a newline, valid for the time of the call.
typedef void (*quern_log_fn)(void *context, quern_log_level level, const char *text);
// Who gets remarks that are no errors of a call (those come back in quern_error), for the whole process; NULL restores
// the default, which writes warnings and errors to stderr. `fn` may be called by any thread, by several at a time.
void quern_log_set(quern_log_fn fn, void *context);

// ---- models -------------------------------------------------------------------------------------------------------

// A GPU.
typedef struct quern_device_info {
  char id[16];            // what `device` calls it: "cuda:0"
  char name[128];         // what its driver calls it
  char chip[16];          // "sm_90": what code is compiled for
  uint64_t memory_bytes;
  int driver;             // the CUDA version of the driver: 12040 for 12.4
} quern_device_info;

// The GPUs of this machine: the first `capacity` of *out_count. `libcuda` is the path of NVIDIA's driver library; NULL =
// the environment's QUERN_LIBCUDA, or else the system's libcuda.so.1, which is loaded at the first call. Errors: TARGET
// (no driver, a driver older than CUDA 12.0, no device; the text says which).
quern_status quern_device_list(const char *libcuda, quern_device_info *out_devices, size_t capacity, size_t *out_count,
                               quern_error *error);

typedef struct quern_model quern_model;

// Whether the weights are read from huge pages, which saves address translations: memory is read faster from them.
typedef enum quern_huge_pages {
  QUERN_HUGE_PAGES_MADVISE,  // the file's own pages, huge where its file system gives such when asked (few do)
  QUERN_HUGE_PAGES_OFF,      // the file's own pages
  QUERN_HUGE_PAGES_THP,      // a copy on transparent huge pages, as far as the system has some
  QUERN_HUGE_PAGES_HUGETLB   // a copy on pages reserved for it (/proc/sys/vm/nr_hugepages): LIMIT where they are too few
} quern_huge_pages;

typedef struct quern_model_options {
  size_t size;         // sizeof(quern_model_options)
  const char *target;  // run the code of this target ("x86-64-v3", "cuda:sm_90"); NULL = the best that the device runs
  bool check_weights;  // read all weights and compare with the checksum (the rest of the file is always checked)
  quern_huge_pages huge_pages;  // CPU: a copy takes the weights' size in memory, and the time to copy them
  const char *device;           // "cuda" (the first GPU) or "cuda:N"; NULL or "cpu" = the CPU
  const char *libcuda;          // GPU: as in quern_device_list
  const quern_allocator *allocator;  // of the model and its sessions, copied; NULL = malloc, realloc and free
  // A file with an Ed25519 public key, as openssl writes it (PEM): the artifact must be signed with its private key, and
  // not a byte changed since; FORMAT otherwise. All of it is read for that. NULL = any artifact. A file that others may
  // write can still be changed after it was opened.
  const char *signed_by;
} quern_model_options;

// Opens and checks a model.qn. The weights are mapped, not read: opening is fast and the memory is shared between
// processes. On success *out_model is the caller's, to be closed after its sessions; otherwise it is NULL.
// An artifact holds machine code: opening it is no danger, evaluating with it is running that code. Open only those of
// people whose programs you would run, or that are signed by them.
// On a GPU the weights and the code are copied there, once for all sessions.
// While a model is open the process has a handler of SIGBUS, which the system sends when a mapped file shrinks: evaluating
// then ends with IO. It answers only for the library's own mappings and hands on anything else to the handler that was
// there before; a host that installs one later must do the same. It is gone when the last model is closed.
// Errors: IO, FORMAT (also code that the GPU's driver finds damaged, and what is not signed by signed_by), UNSUPPORTED
// (another format version), TARGET (no code that runs here, no driver, no device), ARGUMENT (no such target or device; the
// text lists them), NOMEM (also of the GPU).
quern_status quern_model_open(const char *path, const quern_model_options *options, quern_model **out_model,
                              quern_error *error);
void quern_model_close(quern_model *model);  // NULL is harmless

// The name of the compiled program.
const char *quern_model_name(const quern_model *model);
// The file it was opened from; of a model that the JIT made, the model file or the graph's name.
const char *quern_model_path(const quern_model *model);
// The target whose code runs here.
const char *quern_model_target(const quern_model *model);
// The GPU that the model is on; false on the CPU.
bool quern_model_device(const quern_model *model, quern_device_info *out_device);
// What of a GPU's code runs: "machine code", or "PTX", which its driver compiled since the machine code is for another
// chip. Of CPUs always "machine code".
const char *quern_model_code_form(const quern_model *model);
// Bytes a second that the model's GPU reads of its memory, measured by copies within it: what MBU is a part of. Takes up
// to a gibibyte there for some milliseconds. Errors: ARGUMENT (the model is on the CPU), NOMEM.
quern_status quern_model_measure_read(quern_model *model, double *out_bytes_per_s, quern_error *error);
// Logits a token has; token ids are 0 .. size-1, also of an encoder, which has no logits. 0 when the model is neither.
int32_t quern_model_vocab_size(const quern_model *model);
// Numbers of an embedding, when the model is an encoder (BERT and its like), which makes one of a text and no logits
// (quern_session_embed); 0 when it is none.
int32_t quern_model_embedding_size(const quern_model *model);
// Does it have an encoder, which reads a source (the text to translate) that the decoder looks at while it writes (T5)?
bool quern_model_has_source(const quern_model *model);
// The token that a text of such a model begins with; -1 = none of its own: a text goes on from what it is given.
int32_t quern_model_start_token(const quern_model *model);
// The most tokens of context that the compiled program allows; 0 = as many as memory allows.
int64_t quern_model_context_max(const quern_model *model);
// The most sequences a session may hold, and the most tokens of a step whose logits may be wanted; 0 = any number.
int32_t quern_model_sequences_max(const quern_model *model);
int32_t quern_model_rows_max(const quern_model *model);
uint64_t quern_model_weight_bytes(const quern_model *model);
// The text that the compiler stored about the model, `key = value` lines; never NULL. Not NUL-terminated.
const char *quern_model_summary(const quern_model *model, size_t *out_length);
// A value of that text, or NULL when the key is not there; not NUL-terminated.
const char *quern_model_summary_value(const quern_model *model, const char *key, size_t *out_length);

// What a step costs, as the compiler counted it. A multiply-add (MAC) is two operations.
typedef struct quern_model_cost {
  size_t size;                              // sizeof(quern_model_cost), set by the caller
  uint64_t weight_bytes;                    // packed weights that every step reads whole
  uint64_t token_bytes;                     // rows looked up in tables for each token of a step
  uint64_t key_bytes;                       // of a key and its value in all layers: kept for each key a sequence holds
  uint64_t int8_macs_token, f32_macs_token; // in products, for each token
  uint64_t int8_macs_row, f32_macs_row;     // in products, for each token whose logits are wanted
  uint64_t f32_macs_key;                    // in attention, for each key that each token sees in all layers
  uint64_t int8_macs_key;                   // the same of caches of codes
  // Of int8_macs those by codes of so few bits that two products and more add up in 16 bits.
  uint64_t narrow_macs_token, narrow_macs_row, narrow_macs_key;
} quern_model_cost;
// False when the artifact does not tell, or out_cost has no size.
bool quern_model_get_cost(const quern_model *model, quern_model_cost *out_cost);
// Of that what attention takes, for `tokens` tokens of a sequence that holds `depth` keys before them: bytes of keys and
// values, each counted once however many of the tokens see it, and multiply-adds. Layers with a window are counted as far
// as that goes. False when the artifact does not tell.
bool quern_model_get_attention_cost(const quern_model *model, int64_t depth, int64_t tokens, double *out_bytes,
                                    double *out_macs);

// ---- text and tokens -----------------------------------------------------------------------------------------------
// Models without a tokenizer give QUERN_ERR_UNSUPPORTED (or -1, NULL, false) here.

// Can it turn texts into tokens, and back?
bool quern_model_has_tokenizer(const quern_model *model);
int32_t quern_token_bos(const quern_model *model);  // -1 = none
int32_t quern_token_eos(const quern_model *model);  // -1 = none
// Does the token end a generation?
bool quern_token_is_eog(const quern_model *model, int32_t token);
// The bytes a token stands for, whatever its kind; not NUL-terminated, not always valid UTF-8. NULL when out of range.
const char *quern_token_piece(const quern_model *model, int32_t token, size_t *out_length);

enum {
  QUERN_TOKENIZE_ADD_SPECIAL = 1,    // begin-of-text and end-of-text tokens where the vocabulary wants them
  QUERN_TOKENIZE_PARSE_SPECIAL = 2,  // "<s>" in the text becomes the control token; otherwise it is plain text
  QUERN_DETOKENIZE_SPECIAL = 1,      // control tokens as their text; otherwise they are left out
  QUERN_DETOKENIZE_CONTINUES = 2     // the tokens continue a text: keep a leading space
};

// Writes the tokens of a text to `tokens` (capacity of them; may be NULL when capacity is 0) and their number to
// *out_count. Errors: LIMIT when they do not fit: *out_count is how many there are, and `tokens` is untouched. NOMEM.
quern_status quern_tokenize(const quern_model *model, const char *text, size_t length, unsigned flags, int32_t *tokens,
                            size_t capacity, size_t *out_count, quern_error *error);
// The same the other way: bytes to `text` (no NUL is added). Errors: LIMIT, ARGUMENT (a token out of range), NOMEM.
quern_status quern_detokenize(const quern_model *model, const int32_t *tokens, size_t count, unsigned flags, char *text,
                              size_t capacity, size_t *out_length, quern_error *error);

// ---- chats ----------------------------------------------------------------------------------------------------------
// How messages become the text that a model was trained to answer is said by its chat template, in Jinja, which comes
// from the model file. Templates may come from anybody: they read nothing but what they are given, and are bounded in
// steps, memory and nesting.

// The model's template of a name (NULL = "default"; a model may have others, like "tool_use"), not NUL-terminated;
// NULL when it has none of that name.
const char *quern_model_chat_template(const quern_model *model, const char *name, size_t *out_length);

typedef struct quern_chat_message {
  const char *role;  // "system", "user", "assistant", or what else the template knows
  const char *content;
} quern_chat_message;

typedef struct quern_chat_params {
  size_t size;  // sizeof(quern_chat_params)
  const quern_chat_message *messages;  // the conversation, the oldest first
  size_t message_count;
  const char *template_name;  // which of the model's templates; NULL = "default"
  const char *template_text;  // this one instead; NULL = the model's
  bool no_answer;             // leave out what begins the assistant's answer
  // A JSON object of further variables of the template, NULL = none: {"tools": [...], "enable_thinking": false}. One named
  // messages takes the place of those above, so that messages may hold more than a role and a content.
  const char *variables;
} quern_chat_params;

// Writes the messages as the template has them to `text` (capacity bytes; no NUL is added). Errors: LIMIT when it does not
// fit: *out_length is how long it is; LIMIT, too, for a template that takes too many steps or too much memory;
// UNSUPPORTED (the model has no such template; Jinja that needs other files), FORMAT (a mistake in the template or in what
// it is given, with line and column), ARGUMENT (the template refuses the messages, in its own words), NOMEM.
quern_status quern_chat_text(const quern_model *model, const quern_chat_params *params, char *text, size_t capacity,
                             size_t *out_length, quern_error *error);
// The same as tokens: control tokens are what the template says, and none are added. What a message says may hold the text
// of one, too: see that it does not where that matters. As quern_tokenize.
quern_status quern_chat_tokens(const quern_model *model, const quern_chat_params *params, int32_t *tokens,
                               size_t capacity, size_t *out_count, quern_error *error);

// ---- sessions -------------------------------------------------------------------------------------------------------
// A session holds one or more sequences of tokens with their KV cache, and the threads that compute. The logits of a
// sequence do not depend on the number of threads, on the chunk or on what other sequences do, not in one bit.

typedef struct quern_session quern_session;

typedef struct quern_session_options {
  size_t size;        // sizeof(quern_session_options)
  int threads;        // CPU: 0 = one a physical core that this process may use
  bool no_pin;        // CPU: do not bind each thread to a core
  int64_t context;    // tokens a sequence may hold; 0 = what the program allows, or 4096 where it sets no bound
  int64_t chunk;      // tokens of a prompt evaluated at a time; 0 = as many as the program allows
  int32_t sequences;  // 0 = 1; LIMIT beyond what the artifact was compiled for (quern_compile_options.sequences)
  // KV cache pages for all sequences; 0 = enough for all at their full context, which of a model all of whose layers have a
  // window is that and a chunk; with prefix_cache always all of it. Where some layers have windows and others see all, these
  // are the others' pages; those of the layers with windows, bounded in the same way, come beside them.
  int64_t pages;
  bool profile;       // time every kernel (quern_session_profile); a GPU does a step's kernels one by one then
  // How many of `threads` compute steps of one token a sequence: memory is read as fast by fewer threads than a prompt
  // has work for. 0 = all. What is computed does not depend on it.
  int decode_threads;
  // How long a thread that waits for others watches before it sleeps, microseconds: 0 = 40, -1 = not at all. Ignored
  // where threads outnumber the CPUs.
  int64_t spin_us;
  bool profile_faults;  // CPU, with profile: count every kernel's page faults, too, a system call each
  bool check_kernels;   // GPU: wait for every kernel, so that an error names the one that it is of; slow
  // CPU: of what is left of its share of a kernel's work a thread takes one part of this number and 1: 1 to 64, 0 = 2. Small
  // numbers are few large pieces, large ones even out what threads get where cores differ or are busy. No result depends on it.
  int grain;
  // Keep what sequences held for later ones that begin with the same tokens: quern_generate on an empty sequence takes the
  // beginning that is known and evaluates the rest; no bit of what it computes depends on that. Takes a few bytes a token
  // of all KV pages. Of pages that no sequence has the least recently used go when others are wanted. UNSUPPORTED for
  // models whose tokens see those after them.
  bool prefix_cache;
  // Sequences have at most kv_keep keys (8 to the context): one that has so many gives up an eighth of them, 64 at
  // most, chosen for each head by this policy: "sinks" (the first 4 and the newest stay; Xiao et al. 2024), "norm"
  // (those of small keys), "unlike" (those unlike the others), "heavy" (those that the newest token looks at most; Oren
  // et al. 2024), "hitters" (those that all tokens together looked at most; Zhang et al. 2023), "keyformer" (the same by
  // half the scores; Adnan et al. 2024), "adaptive" (as sinks or hitters, by head; Ge et al. 2024). NULL or "none" = all
  // keys stay; kv_keep is 0 then. The context bounds positions, and the logits are those of a text of which tokens see only some: an
  // approximation, the same for any chunk, threads and neighbours. The model must be compiled for it
  // (quern_compile_options.kv_evict): else UNSUPPORTED. With prefix_cache what is kept of a sequence are its tokens
  // before the first time. A sequence cannot be cut to fewer tokens than it had when keys were last evicted, but to none.
  // With "hitters", "keyformer" and "adaptive" nothing but all can be taken back: UNSUPPORTED beside guesses and
  // prefix_cache.
  const char *kv_evict;
  int64_t kv_keep;
} quern_session_options;

// *out_session is the caller's; `model` must outlive it. All memory is taken here (the KV cache's takes physical
// memory as it fills; on a GPU it is taken whole); evaluating allocates nothing, but for what a GPU's driver keeps of a
// step of one token a sequence when there is the first with so many sequences. Errors: UNSUPPORTED (neither a language
// model nor an encoder), LIMIT, ARGUMENT, NOMEM (also of the GPU).
quern_status quern_session_create(quern_model *model, const quern_session_options *options, quern_session **out_session,
                                  quern_error *error);
void quern_session_destroy(quern_session *session);  // NULL is harmless

typedef struct quern_session_info {
  size_t size;                  // sizeof(quern_session_info), set by the caller
  int threads, decode_threads;  // 0 on a GPU
  int64_t context, chunk;
  int32_t sequences;
  uint64_t kv_bytes;     // of the KV cache when full
  uint64_t arena_bytes;  // of intermediate values
} quern_session_info;
// What the options have become, and what memory the session takes. Errors: ARGUMENT (size).
quern_status quern_session_get_info(const quern_session *session, quern_session_info *out_info, quern_error *error);

// Appends `count` tokens (at least 1) to a sequence (0 .. sequences-1) and computes. *out_logits becomes
// the logits after the last one, f32 (vocab_size), valid until the session's next call; NULL = they are not computed.
// After an error the sequence is as it was; of a model with layers that have windows, and with kv_evict, it is empty where it
// went on too far for that (quern_session_truncate). Errors: ARGUMENT (a token or sequence out of range), LIMIT (context or KV
// cache full), UNSUPPORTED (the model is an encoder, which is given whole texts), CANCELLED, INTERNAL (a kernel faulted on a GPU: then the session is of no more use, nor is the GPU to this process).
quern_status quern_session_eval(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                const float **out_logits, quern_error *error);
// The same with the logits after every token, copied to `logits`: f32 (count, vocab_size), row-major.
quern_status quern_session_eval_all(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                    float *logits, quern_error *error);

// Of a model with an encoder: empties the sequence and gives it a source, `count` tokens (at least 1, at most the context),
// which the encoder reads at once. What is evaluated after that looks at it, from quern_model_start_token on; truncating
// the sequence keeps it, resetting does not. Errors: UNSUPPORTED (the model has no encoder), ARGUMENT, LIMIT, CANCELLED:
// then the sequence is as it was; INTERNAL (a GPU's): it is empty.
quern_status quern_session_source(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                  quern_error *error);

typedef struct quern_item {
  int32_t token, sequence;
  bool want_logits;
} quern_item;
// One step over several sequences: appends each token to its sequence (at most `chunk` in all; tokens of one sequence
// in the order given). The logits of the items that want them are then read by quern_session_logits. Errors as above.
quern_status quern_session_step(quern_session *session, const quern_item *items, size_t count, quern_error *error);
// Of the index-th item of the last step that wanted logits: f32 (vocab_size), valid until the session's next call.
// NULL when there was none.
const float *quern_session_logits(const quern_session *session, size_t index);

// Of an encoder: an embedding of each of `texts` texts. `tokens` are those of all texts, one text after another, with
// those that go around a text (QUERN_TOKENIZE_ADD_SPECIAL); counts (texts) says how many each has, at least 1. They are
// written to out_embeddings: f32 (texts, quern_model_embedding_size), row-major, of length 1 where the model says so. As
// many texts as the session has sequences and pages, and its chunk tokens, are computed together, which changes no bit. The
// session's sequences are empty afterwards. Errors: UNSUPPORTED (the model makes logits), ARGUMENT (a token out of range,
// a text without tokens), LIMIT (a text longer than the context or the chunk: it is evaluated whole), CANCELLED, INTERNAL.
quern_status quern_session_embed(quern_session *session, const int32_t *tokens, const size_t *counts, size_t texts,
                                 float *out_embeddings, quern_error *error);

// Tokens in a sequence; -1 for a sequence out of range.
int64_t quern_session_position(const quern_session *session, int32_t sequence);
// Forgets all but the first `length` tokens of a sequence. ARGUMENT when it is shorter; LIMIT for a model with layers
// that have windows, when keys that those tokens see lay before it and were given back (never so for the last 64 tokens that were
// evaluated, nor for a length of 0), and with kv_evict as that says.
quern_status quern_session_truncate(quern_session *session, int32_t sequence, int64_t length, quern_error *error);
// Makes sequence `to` what the first `length` tokens of `from` are, in place of what it held: for several answers to one
// prompt, or to go on from a place in several ways. Nothing is computed. The two share KV cache pages until one of them
// writes to such a page, which takes a free one. ARGUMENT: no such sequence, the same one, a `length` beyond `from`; LIMIT
// as of quern_session_truncate.
quern_status quern_session_fork(quern_session *session, int32_t from, int64_t length, int32_t to, quern_error *error);
// For benchmarks: lengthens a sequence by `count` keys and values of synthetic numbers, as if it had been given so many
// tokens. What is evaluated after them takes as long as after real ones. Errors: ARGUMENT, LIMIT (context or KV cache
// full, or kv_keep keys), UNSUPPORTED (a cache of a type that this does not know).
quern_status quern_session_fill(quern_session *session, int32_t sequence, int64_t count, quern_error *error);
// Empties a sequence (one out of range: nothing happens).
void quern_session_reset(quern_session *session, int32_t sequence);

// Asks the call that works on the session to stop, or the next one where none does: quern_session_eval, _eval_all, _embed
// and _step end with CANCELLED, quern_generate with QUERN_STOP_CANCELLED, before the next chunk of a prompt or the next
// token. From any thread, as long as the session is there; also from a signal handler. The call that stops uses the
// request up.
void quern_session_cancel(quern_session *session);
// Takes back a request that no call has used up. By the session's thread.
void quern_session_uncancel(quern_session *session);

// ---- a sequence's state ---------------------------------------------------------------------------------------------
// What a sequence holds (its keys and values, and how many tokens they are of), as bytes that another session or
// process can go on from, with the same logits in every bit. They fit the model whose artifact has the same weights and
// graph, whatever its target, schedules and tuning. They hold no tokens and nothing of other sequences.

// Bytes that quern_session_save writes for the sequence as it is now; 0 for a sequence out of range.
size_t quern_session_state_size(const quern_session *session, int32_t sequence);
// Writes them to `data` (capacity bytes); *out_size is how many there are, also after LIMIT. Errors: ARGUMENT (no such
// sequence), LIMIT (they do not fit), UNSUPPORTED (a cache of a layout that this does not know).
quern_status quern_session_save(const quern_session *session, int32_t sequence, void *data, size_t capacity,
                                size_t *out_size, quern_error *error);
// Makes the sequence what the bytes say, in place of what it held. They are checked and may come from anybody. After an
// error the sequence is as it was. Errors: ARGUMENT (no such sequence), FORMAT (damaged, truncated), UNSUPPORTED (of
// another model or version), LIMIT (context or KV cache too small).
quern_status quern_session_restore(quern_session *session, int32_t sequence, const void *data, size_t size,
                                   quern_error *error);
// The same to a file, which appears whole or not at all, and from one. Errors: IO, too.
quern_status quern_session_save_file(const quern_session *session, int32_t sequence, const char *path,
                                     quern_error *error);
quern_status quern_session_restore_file(quern_session *session, int32_t sequence, const char *path, quern_error *error);

// ---- what sequences begin with ---------------------------------------------------------------------------------------
// Of sessions with `prefix_cache`. What a sequence holds is known to later ones from when a prompt of quern_generate has
// been evaluated, and all of it when the sequence is reset.

// Makes an empty sequence one of the first tokens of `tokens`, as many as are known, but not of the last, which is to be
// evaluated; *out_held of them (0: none, or no prefix_cache). Then evaluate the others, or give all of them and their
// number (prompt_held) to quern_generate, which does this by itself. Errors: ARGUMENT (no such sequence, or not empty).
quern_status quern_session_attach(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count,
                                  size_t *out_held, quern_error *error);

typedef struct quern_prefix_info {
  size_t size;  // sizeof(quern_prefix_info), set by the caller
  int64_t lookups, asked_tokens, found_tokens;  // so far; found: that were not evaluated. found / asked is the hit rate
  int64_t pages, tokens;                        // kept now
  int64_t given_up_pages;                       // so far, since others wanted room
} quern_prefix_info;
// All zero without prefix_cache. Errors: ARGUMENT (size).
quern_status quern_session_get_prefixes(const quern_session *session, quern_prefix_info *out_info, quern_error *error);
// Writes all that is kept to a file, which appears whole or not at all. Errors: ARGUMENT (no prefix_cache), IO, NOMEM,
// LIMIT, UNSUPPORTED (a cache of a layout that this does not know).
quern_status quern_session_save_prefixes(const quern_session *session, const char *path, quern_error *error);
// Keeps what such a file holds, too, the most recently used first, as far as KV pages are free; *out_pages of it are there
// then. The file is checked, and may be of anybody as far as memory is concerned; but it says what keys and values a text
// has, so take texts' beginnings only from whom you would take texts. Errors: ARGUMENT, IO, NOMEM, FORMAT (damaged,
// truncated), UNSUPPORTED (of another model or version): then nothing is added.
quern_status quern_session_load_prefixes(quern_session *session, const char *path, int64_t *out_pages,
                                         quern_error *error);

// ---- generation -----------------------------------------------------------------------------------------------------

// The same logits, options, history and seed give the same token on every machine.
typedef struct quern_sampler_options {
  size_t size;            // sizeof(quern_sampler_options)
  double temperature;     // >= 0; 0 is greedy: the largest logit, of equals the lowest id
  int32_t top_k;          // keep the k largest logits; 0 = all
  double top_p;           // in (0, 1]: keep the fewest most likely tokens whose probabilities reach it; 1 = all
  double min_p;           // in [0, 1]: keep tokens at least this fraction as likely as the most likely one; 0 = all
  double repeat_penalty;  // > 0: logits of recent tokens are divided by it (multiplied if negative); 1 = none
  int32_t repeat_last_n;  // how many tokens count as recent
  uint64_t seed;
} quern_sampler_options;
// Fills *out, of `size` bytes, with: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, repeat_penalty 1, repeat_last_n
// 64, seed 0.
void quern_sampler_options_init(quern_sampler_options *out, size_t size);
// The same as a value.
static inline quern_sampler_options quern_sampler_options_default(void) {
  quern_sampler_options options;
  quern_sampler_options_init(&options, sizeof options);
  return options;
}
// Sets those of the options (`size` bytes, filled in by the caller) that the model's files say: generation_config.json of a
// folder, as transformers takes it, or general.sampling.* of a GGUF file, as llama.cpp does. The others and the seed stay as
// they are. False when the files say nothing. A program lets its user's wishes override what it gets here.
bool quern_model_sampler_defaults(const quern_model *model, quern_sampler_options *options);
// The most tokens that the files say to generate (max_new_tokens); 0 = they do not say. It is for the caller to ask for them.
int64_t quern_model_max_tokens(const quern_model *model);

// Takes text as it becomes certain: called once a token with the text that the token made certain (maybe none: an
// unfinished character, or what may yet become a stop string), and with token -1 for text left at the end. `text` is
// whole characters where the model gives them, not NUL-terminated, valid for the time of the call. False = stop. Must
// not call into the session.
typedef bool (*quern_text_fn)(void *context, const char *text, size_t length, int32_t token);
// True = stop. Asked before each chunk of the prompt and before each token that is evaluated, on the calling thread, so
// that a long prompt can be given up: then the sequence is as it was before the call and nothing is handed out. Must
// not call into the session.
typedef bool (*quern_cancelled_fn)(void *context);

// What guesses the tokens that come next, so that one step of the model can evaluate several. The text is the same as
// without, in every bit; how many steps it takes is another matter, and what they cost.
typedef enum quern_technique {
  QUERN_SPECULATE_LOOKUP,  // what came after the longest earlier occurrence of the text's last tokens
  QUERN_SPECULATE_DRAFT,   // a smaller model with the same vocabulary goes on with the text
  QUERN_SPECULATE_MEDUSA,  // heads, compiled from a checkpoint of them, guess from the model's last hidden state
  // What the model itself chose after the same tokens, in any text with this speculator so far or in a window of guesses for
  // the positions ahead, which is evaluated with every step
  QUERN_SPECULATE_LOOKAHEAD
} quern_technique;
// A stable lower-case word for a technique: "lookup". NULL for a number that is none.
const char *quern_technique_name(quern_technique technique);

typedef struct quern_speculator quern_speculator;
typedef struct quern_speculator_options {
  size_t size;  // sizeof(quern_speculator_options)
  quern_technique technique;
  quern_model *draft;  // of QUERN_SPECULATE_DRAFT the model, of _MEDUSA the heads: must outlive the speculator
  // Guesses a step: always as many as there can be up to this. 0 = as many as pay, by what came true so far and by what a
  // guess costs, up to 7; where none pay, one is tried now and then. Of a draft model, of heads and of lookahead they are a tree where
  // the artifact can verify one (quern_compile_options.guesses) and has room for sequences beside the session's
  // (quern_compile_options.sequences); else each comes after the one before.
  int32_t tokens;
  // Where tokens are drawn (temperature > 0): false: each is drawn as it would be without guesses, which have come true when
  // they are the same. true: a draft model draws its guesses by random numbers of its own, and as many of them are taken as
  // can be with every token chosen as often as without (rejection sampling); heads guess what each says is likeliest. More come
  // true, but the text is another one, also from run to run, since how many tokens are guessed depends on times. Guesses that
  // are judged so are no tree.
  bool rejection;
} quern_speculator_options;
// Makes guesses for one sequence of the session at a time; they begin from what passes through quern_generate with it, and
// what it knows of a sequence lasts from call to call. Any call may be with it, another one, or none. *out_speculator is
// the caller's, to be destroyed before the session. A draft model or heads compute with the session's threads; a draft model
// takes a KV cache for the session's context. Errors: ARGUMENT (no such technique, no draft model or heads, ones with another
// vocabulary or for hidden states of another width), LIMIT (the artifact computes the logits of one token a step: compile it
// with quern_compile_options.sequences), UNSUPPORTED (heads, and the artifact does not give hidden states: compile it with
// quern_compile_options.guesses), NOMEM, and those of quern_session_create for the draft model.
quern_status quern_speculator_create(quern_session *session, const quern_speculator_options *options,
                                     quern_speculator **out_speculator, quern_error *error);
void quern_speculator_destroy(quern_speculator *speculator);  // NULL is harmless

typedef struct quern_generate_params {
  size_t size;  // sizeof(quern_generate_params)
  int32_t sequence;
  const int32_t *prompt;                 // appended to what the sequence holds; of a model with an encoder the source of
                                         // a new text (quern_session_source), which replaces it
  size_t prompt_count;                   // at least 1
  int64_t max_tokens;                    // 0 = until the context is full
  const quern_sampler_options *sampler;  // NULL = what the model's files say, else quern_sampler_options_default()
  const char *const *stops;  // NUL-terminated strings that end the text and are not handed out; matched across tokens
  size_t stop_count;
  bool ignore_eog;         // go on after tokens that end a text
  bool show_special;       // hand out control tokens as their text
  quern_text_fn callback;  // may be NULL
  void *callback_context;
  quern_cancelled_fn cancelled;  // may be NULL: never; takes callback_context
  // Of the prompt, the first so many tokens (not all) are the sequence's last ones already, by an earlier call or
  // quern_session_fork: they count as prompt for sampling, and are not evaluated.
  size_t prompt_held;
  quern_speculator *speculator;  // of the same session; NULL = one token a step
} quern_generate_params;

typedef enum quern_stop_reason {
  QUERN_STOP_EOG,         // the model ended its text
  QUERN_STOP_STRING,      // a stop string appeared
  QUERN_STOP_MAX_TOKENS,  // as many tokens as asked for
  QUERN_STOP_CONTEXT,     // the context is full
  QUERN_STOP_CANCELLED    // `callback` returned false or `cancelled` true
} quern_stop_reason;
// A stable lower-case word for a reason: "max_tokens".
const char *quern_stop_reason_name(quern_stop_reason reason);

typedef struct quern_stats {
  size_t size;                              // sizeof(quern_stats), set by the caller
  int64_t prompt_tokens, generated_tokens;  // generated: sampled, one that ended the text included
  uint64_t prefill_ns;                      // evaluating the prompt
  uint64_t first_ns;                        // until the first token was sampled
  uint64_t decode_ns;                       // from then on
  int64_t decode_steps;  // tokens of the text evaluated in that time: decode_steps / decode_ns is the speed of decoding
  quern_stop_reason reason;
  size_t stop_index;      // of the stop string, for QUERN_STOP_STRING
  int32_t pending_token;  // the last token sampled, which is not in the sequence yet: to go on, put it before the next
                          // prompt; -1 = none
  int64_t held_tokens;    // of prompt_tokens: those that were not evaluated since the sequence had them
  int64_t passes;              // steps in which decode_steps tokens were evaluated: as many, without a speculator
  int64_t proposed, accepted;  // guesses that these steps verified, and those that came true
} quern_stats;

// Evaluates the prompt, then samples, hands out text and evaluates until something says stop, which is no error.
// *out_stats (may be NULL) is filled in as far as it came, also after an error. Errors: those of quern_session_eval,
// ARGUMENT (an option out of range, a size; the text names it), FORMAT (logits that are no numbers: damaged weights), NOMEM.
quern_status quern_generate(quern_session *session, const quern_generate_params *params, quern_stats *out_stats,
                            quern_error *error);

// ---- many requests at a time ----------------------------------------------------------------------------------------
// A scheduler evaluates requests of many users together: reading the weights once gives a token of each. It decides who is
// evaluated when, and who waits for room in the KV cache; a request's tokens are those that quern_generate gives for it
// alone, in every bit of the logits that they come from, whoever else is there.

typedef struct quern_scheduler quern_scheduler;

typedef enum quern_batching {
  QUERN_BATCHING_CONTINUOUS,  // a request that waits is taken in as soon as another one has ended
  QUERN_BATCHING_DYNAMIC,     // a batch begins when it is full or its first request has waited for batch_wait_us
  QUERN_BATCHING_STATIC       // a batch begins with whoever waits then. Both take nobody in until all of it have ended
} quern_batching;

// What becomes of the keys and values of a request that has to give its room to others.
typedef enum quern_preemption {
  QUERN_PREEMPT_RECOMPUTE,  // they are evaluated again later
  QUERN_PREEMPT_SWAP        // they are kept in memory or in a file
} quern_preemption;

// Online requests go before batch ones and take their places.
typedef enum quern_priority { QUERN_PRIORITY_ONLINE, QUERN_PRIORITY_BATCH } quern_priority;

typedef struct quern_scheduler_options {
  size_t size;  // sizeof(quern_scheduler_options)
  // Threads, context, chunk, sequences (how many requests are evaluated together) and pages; NULL = the defaults. The
  // artifact must be compiled for as many sequences.
  const quern_session_options *session;
  quern_batching batching;
  quern_preemption preemption;
  const char *swap_folder;  // where QUERN_PREEMPT_SWAP writes files, of which none is left; NULL = memory
  int64_t step_tokens;      // tokens of a step, of prompts and of generations; 0 = the session's chunk
  // A step in which somebody generates takes in prompts only so far that it is expected to end within this time, judged by
  // the steps before; but 16 tokens of them. So nobody waits longer for a token. 0 = as far as step_tokens allows
  int64_t longest_wait_us;
  int64_t batch_wait_us;  // QUERN_BATCHING_DYNAMIC
  int64_t patience_us;    // a batch request that has waited so long counts as online; 0 = never
  // Guesses for requests that want QUERN_SPECULATE_DRAFT; must outlive the scheduler, and be compiled for as many sequences, or,
  // to make trees, for five to nine times as many. NULL = none.
  quern_model *draft;
  // The heads for those that want QUERN_SPECULATE_MEDUSA; must outlive the scheduler. Where they are compiled for several
  // sequences they guess for so many requests at a time. NULL = none.
  quern_model *heads;
} quern_scheduler_options;

// *out_scheduler is the caller's; `model` must outlive it. Errors: those of quern_session_create; ARGUMENT (the text names
// the option, or says why draft model or heads are none for it).
quern_status quern_scheduler_create(quern_model *model, const quern_scheduler_options *options,
                                    quern_scheduler **out_scheduler, quern_error *error);
// The session that it evaluates in, for its info, profile and prefixes; what it holds is the scheduler's own business.
quern_session *quern_scheduler_session(const quern_scheduler *scheduler);
// Requests that have not ended end as cancelled. NULL is harmless.
void quern_scheduler_destroy(quern_scheduler *scheduler);

// How a request ended.
typedef struct quern_request_result {
  quern_status status;       // QUERN_OK, or the error that this request had; others go on
  const char *error;         // its text; "" when there was none
  quern_stop_reason reason;  // why it ended, for QUERN_OK
  size_t stop_index;         // of the stop string, for QUERN_STOP_STRING
  const int32_t *tokens;     // what was generated, the token that ended the text included
  int64_t generated_tokens;
  int64_t prompt_tokens, cached_tokens;  // cached: those of the prompt that were in the cache already
  int64_t preemptions;                   // how often it had to give its room to others
  int64_t passes;                        // steps that gave it tokens
  int64_t proposed, accepted;            // guesses that were verified, and those that came true
  uint64_t queued_ns, first_ns, total_ns;  // from being added until it was taken in, until its first token, until the end
} quern_request_result;
// Called once for each request, at its end; `result` is valid for the time of the call. It may add and cancel requests,
// and do nothing else with the scheduler; quern_text_fn of a request likewise.
typedef void (*quern_request_done_fn)(void *context, uint64_t id, const quern_request_result *result);

typedef struct quern_request {
  size_t size;            // sizeof(quern_request)
  const int32_t *prompt;  // copied, as all of it is
  size_t prompt_count;
  const char *text;    // in place of tokens (prompt NULL): text_length bytes
  size_t text_length;
  unsigned text_flags;  // of quern_tokenize
  int64_t max_tokens;   // 0 = until the context is full
  const quern_sampler_options *sampler;  // NULL = as in quern_generate_params
  const char *const *stops;              // as in quern_generate_params
  size_t stop_count;
  bool ignore_eog, show_special;
  quern_priority priority;
  // What guesses for this request (quern_speculator_options.draft is the scheduler's draft model or heads, or NULL); NULL =
  // nothing. As many tokens as pay are few in a large batch. Trees are made where the artifact has room for sequences beside the
  // scheduler's. Nothing is guessed where it computes the logits of one token a step.
  const quern_speculator_options *speculator;
  uint64_t client;  // whose it is: of equal priority, the client goes first for whom the fewest tokens were evaluated
  // A request whose prompt begins alike, by the id that quern_scheduler_add gave it; 0 = none. This one waits until that
  // prompt is evaluated, and shares its KV pages: for several answers to one prompt. Where that one has ended, or is less
  // urgent, this one goes on by itself. ARGUMENT: no such request was ever added.
  uint64_t fork_of;
  quern_text_fn callback;      // may be NULL; false = end it
  quern_request_done_fn done;  // may be NULL
  void *callback_context;
} quern_request;

// Has a request wait for the next step. By any thread. Errors: ARGUMENT (an option, a token), LIMIT (the prompt is longer
// than the context, or than all pages), UNSUPPORTED (a text, and the model has no tokenizer), NOMEM.
quern_status quern_scheduler_add(quern_scheduler *scheduler, const quern_request *request, uint64_t *out_id,
                                 quern_error *error);
// Ends a request before the next step. By any thread. ARGUMENT: it has ended, or never was.
quern_status quern_scheduler_cancel(quern_scheduler *scheduler, uint64_t id, quern_error *error);

// One step: takes in what was added and evaluates tokens of as many requests as there are rows and pages for; their
// callbacks are called. *out_left is how many requests have not ended, *out_idle_us how long nothing will happen unless one
// is added: 0 when something did, INT64_MAX when there is nothing. By one thread at a time, as all but _add and _cancel.
// Errors: IO, INTERNAL, as of quern_session_eval: all requests are as they were before.
quern_status quern_scheduler_step(quern_scheduler *scheduler, size_t *out_left, int64_t *out_idle_us,
                                  quern_error *error);
// Waits until a request is added or cancelled, but no longer than that. True when one was.
bool quern_scheduler_wait(quern_scheduler *scheduler, int64_t most_us);

typedef struct quern_scheduler_stats {
  size_t size;                                 // sizeof(quern_scheduler_stats), set by the caller
  int64_t running, waiting;                    // requests
  int64_t added, finished, cancelled, failed;  // failed: ended with an error
  int64_t steps;
  int64_t prompt_tokens, generated_tokens;   // evaluated; sampled
  int64_t cached_tokens, recomputed_tokens;  // of prompts, found in the cache; evaluated again after a preemption
  int64_t proposed, accepted;  // guesses that were verified, and those that came true
  int64_t preemptions, swapped_out, swapped_in;
  int64_t swaps_lost;   // could not be kept or read back, and were evaluated again
  uint64_t swap_bytes;  // written
  int64_t pages, free_pages, most_pages;  // of the KV cache; most: in use at a time
  uint64_t slots, slots_unused;  // room for keys in pages in use, summed over all steps; of it, what held none
  uint64_t longest_step_ns;      // of steps in which somebody generated
  int64_t most_running;
} quern_scheduler_stats;
// What has happened so far. Errors: ARGUMENT (size).
quern_status quern_scheduler_get_stats(const quern_scheduler *scheduler, quern_scheduler_stats *out_stats,
                                       quern_error *error);
// Are all pages of the KV cache free, or held by a request? INTERNAL, with the numbers, when some are lost: a bug.
quern_status quern_scheduler_check(const quern_scheduler *scheduler, quern_error *error);

// ---- programs on the host's own tensors -----------------------------------------------------------------------------
// What a model computes, a language model or not, is a program with inputs and outputs that have names: a graph in JSON
// or one that was built in code (quern.h) says which. A runner calls it on the host's own memory. Any number of runners
// may be on one model, each for one thread at a time; it brings worker threads of its own. Results do not depend on their
// number.

// Sizes that are known only when a program runs, by the letters that types have for them. Those that no tensor of a
// program has are not looked at.
typedef struct quern_sizes {
  int64_t tokens;      // T: rows of a step, most of all
  int64_t rows;        // R: rows whose results are wanted
  int64_t pages;       // P: pages of 64 keys that a sequence may have
  int64_t sequences;   // B
  int64_t pool_pages;  // G: pages that a cache has for all sequences
  int64_t source;      // S: tokens of the source that an encoder reads
} quern_sizes;

typedef enum quern_tensor_kind { QUERN_TENSOR_INPUT, QUERN_TENSOR_OUTPUT, QUERN_TENSOR_CACHE } quern_tensor_kind;

// A tensor of a program: an input, an output or a cache of keys or values. Row-major: the last dimension is the
// nearest.
typedef struct quern_tensor {
  quern_tensor_kind kind;
  const char *name;   // of a cache "k" or "v"
  const char *dtype;  // "f32" or "i32"; of caches "f16" and "bf16", too
  int32_t layer;      // of a cache; else 0
  int32_t rank;       // 0 to 4
  int64_t dims[4];    // a number of elements, or, with a symbol, of times that its value is taken
  char symbols[4];    // 'T', 'R', 'P', 'B', 'G' or 'S' of quern_sizes; 0 = none
} quern_tensor;
// The index-th tensor that the model's program has with the host; false after the last.
bool quern_model_tensor(const quern_model *model, size_t index, quern_tensor *out_tensor);
// The largest sizes that it was compiled for; 0 = any.
void quern_model_sizes_max(const quern_model *model, quern_sizes *out_sizes);

typedef struct quern_runner quern_runner;

typedef struct quern_runner_options {
  size_t size;         // sizeof(quern_runner_options)
  int threads;         // these four as in quern_session_options
  bool no_pin;
  int64_t spin_us;
  int grain;
  // Pages of every cache, which the runner takes, zeroed, and keeps from run to run: the largest pool_pages of a run.
  // 0 = none, for programs without caches; ARGUMENT where there are some.
  int64_t pool_pages;
} quern_runner_options;

// *out_runner is the caller's; `model` must outlive it. Memory for the largest sizes is taken here (and becomes physical
// as it is used). Errors: ARGUMENT, LIMIT, NOMEM (also of the GPU).
quern_status quern_runner_create(quern_model *model, const quern_runner_options *options, quern_runner **out_runner,
                                 quern_error *error);
void quern_runner_destroy(quern_runner *runner);  // NULL is harmless

// Binds an input: `data` is the host's, dense and row-major in the input's type, borrowed until it is bound anew, and
// read by each run; `bytes` of it may be read. Integers that say where something is (ids of tokens, rows, positions,
// pages) must be within what they index: the program does not look. Errors: ARGUMENT (no such input: the text lists
// them).
quern_status quern_runner_bind_input(quern_runner *runner, const char *name, const void *data, size_t bytes,
                                     quern_error *error);
// Binds an output: each run ends by writing it to `data`, dense and row-major. NULL: no longer, and then it is read by
// quern_runner_output alone. Errors: ARGUMENT (no such output: the text lists them).
quern_status quern_runner_bind_output(quern_runner *runner, const char *name, void *data, size_t bytes,
                                      quern_error *error);

// Runs the program. Every input must be bound; what is bound must be as large as the sizes say. Takes no memory on the
// CPU. After an error, outputs are undefined. Errors: ARGUMENT (something is not bound), LIMIT (a size is negative or
// beyond what the program was compiled for; bound memory is too small), IO (the artifact's file lost bytes), INTERNAL (a
// kernel faulted on a GPU: then the runner is of no more use).
quern_status quern_runner_run(quern_runner *runner, const quern_sizes *sizes, quern_error *error);

// Where the last run left an output, without a copy: its rows (of all dimensions but the first), *out_row_bytes apart,
// which is more than a row has where rows are padded. Valid until the next run. NULL when there is no such output.
const void *quern_runner_output(const quern_runner *runner, const char *name, size_t *out_row_bytes);

// ---- profiles -------------------------------------------------------------------------------------------------------

// One kernel call of the program, summed over all steps so far, on the session's calling thread.
typedef struct quern_step_profile {
  size_t size;         // sizeof(quern_step_profile), set by the caller
  const char *kernel;  // its name
  const char *place;   // the op of the model it came from
  uint64_t kernel_ns;  // inside the kernel
  uint64_t wait_ns;    // waiting for the work before it to be done
  uint64_t calls;
  uint64_t busy_ns;    // inside the kernel, of all threads together
  uint64_t faults;     // page faults inside the kernel, for sessions created with `profile_faults`
} quern_step_profile;
// The index-th call of the program; false after the last, when the session was created without `profile`, or out_profile has
// no size.
bool quern_session_profile(const quern_session *session, size_t index, quern_step_profile *out_profile);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
