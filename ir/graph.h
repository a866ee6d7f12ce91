// The graph IR: a transformer step as SSA values. A graph is append-only; passes build a new one (rewrite.c).
// The text form (print.c, parse.c) round-trips; ir/README.md has its grammar and the invariants verify.c checks.
#ifndef QN_IR_GRAPH_H
#define QN_IR_GRAPH_H

#include "ir/type.h"
#include "runtime/base/arena.h"
#include "runtime/base/vec.h"

typedef enum qn_op {
#define QN_OP(name, ...) QN_OP_##name,
#include "ir/ops.def"
#undef QN_OP
  QN_OP_COUNT
} qn_op;

enum { QN_OF_E = 1, QN_OF_V = 2, QN_OF_R = 4, QN_OF_S = 8, QN_OF_W = 16 };  // flags; ops.def explains them

typedef enum qn_attr_id {
#define QN_ATTR(name, text, kind, meaning) QN_ATTR_##name,
#include "ir/attrs.def"
#undef QN_ATTR
  QN_ATTR_COUNT
} qn_attr_id;
typedef enum qn_attr_kind { QN_AK_INT, QN_AK_FLOAT, QN_AK_TEXT } qn_attr_kind;

typedef struct qn_attr {
  qn_attr_id id;
  union {
    int64_t i;
    double f;
    const char *text;  // arena
  } value;
} qn_attr;

#define QN_MAX_OPERANDS 8
#define QN_MAX_ATTRS    6

typedef uint32_t qn_id;  // a value of a graph: index into nodes; 0 is none

// One line of ops.def.
typedef struct qn_op_info {
  const char *name;
  int min_operands, max_operands;
  uint32_t required_attrs, optional_attrs;  // bit sets by qn_attr_id
  uint32_t flags;                           // QN_OF_*
  const char *meaning;
} qn_op_info;
const qn_op_info *qn_op_get_info(qn_op op);
bool qn_op_parse(qn_str text, qn_op *out);
// Does the op multiply rows by the transpose of a weight, its operand 1?
static inline bool qn_op_is_product(qn_op op) { return op == QN_OP_MATMUL || op == QN_OP_EXPERT_MATMUL; }
const char *qn_attr_name(qn_attr_id id);
qn_attr_kind qn_attr_get_kind(qn_attr_id id);
bool qn_attr_parse(qn_str text, qn_attr_id *out);

// A value: the op that makes it.
typedef struct qn_node {
  qn_op op;
  int operand_count;
  qn_id operands[QN_MAX_OPERANDS];  // all smaller than the node's own id
  int attr_count;
  qn_attr attrs[QN_MAX_ATTRS];  // ascending by id
  qn_type type;
  uint32_t group;   // the kernel it belongs to, given by the fuse passes; 0 = none yet
  const char *loc;  // arena: what error messages call it ("blk.3.attn_q", "graph.json:12:5"); never NULL
} qn_node;

typedef struct qn_output {
  const char *name;  // arena
  qn_id value;
} qn_output;

typedef struct qn_graph {
  qn_arena *arena;        // borrowed
  const char *name;       // arena
  QN_VEC(qn_node) nodes;  // nodes.items[0] is unused
  QN_VEC(qn_output) outputs;
  int64_t max_values[QN_SYM_COUNT];  // the largest value each symbol may take; what memory is planned for
  uint32_t group_count;              // groups are 1..group_count
} qn_graph;

qn_graph *qn_graph_create(qn_arena *arena, const char *name);  // NULL when out of memory
static inline const qn_node *qn_graph_node(const qn_graph *g, qn_id id) { return &g->nodes.items[id]; }

// What to make: pass by value with the fields that matter set.
typedef struct qn_node_spec {
  qn_op op;
  int operand_count;
  qn_id operands[QN_MAX_OPERANDS];
  int attr_count;
  qn_attr attrs[QN_MAX_ATTRS];  // any order
  const qn_type *type;          // for ops whose shape rule is "given"; elsewhere NULL or what must come out
  const char *loc;              // copied; NULL = "?"
  uint32_t group;
} qn_node_spec;

// Appends a node: checks operand count, attributes and shapes, and infers the type by the op's shape rule.
// Errors name loc, the op, got and want.
QN_CHECKED qn_status qn_graph_add(qn_graph *graph, const qn_node_spec *spec, qn_id *out, qn_diag *diag);
QN_CHECKED qn_status qn_graph_add_output(qn_graph *graph, const char *name, qn_id value, qn_diag *diag);

const qn_attr *qn_node_attr(const qn_node *node, qn_attr_id id);  // NULL when it has none
int64_t qn_node_int(const qn_node *node, qn_attr_id id, int64_t otherwise);
double qn_node_float(const qn_node *node, qn_attr_id id, double otherwise);
const char *qn_node_text(const qn_node *node, qn_attr_id id, const char *otherwise);

// The shape rule of an op on operand types (build.c): what qn_graph_add uses, for the verifier and passes.
QN_CHECKED qn_status qn_infer_type(const qn_graph *graph, const qn_node_spec *spec, qn_type *out, qn_diag *diag);

// Is the node a stack of parameters, a concat of nothing else along axis 0? Packing makes it, not a kernel.
bool qn_graph_is_stack(const qn_graph *graph, const qn_node *node);
// The value behind views that only rename elements (a view with a group of its own copies).
qn_id qn_graph_base(const qn_graph *graph, qn_id id);
// The keys that attn_mix sees: those of the scores that its weights are the softmax of; 0 = all before a token.
int64_t qn_graph_mix_window(const qn_graph *graph, const qn_node *mix);
// The keys that a token sees of a cache at most, of all ops that read it, its own the last; 0 = one of them sees all, or
// others than those before the token.
int64_t qn_graph_cache_window(const qn_graph *graph, qn_id cache);
// Of attention or its scores, whose operand `pos` is the last key that a token sees: *out_by is the operand of slopes or
// bias (0 = none), *out_at the one that says where tokens are. `after`: the type behind block_table; NULL = none.
void qn_attention_operands(const qn_node *node, int pos, const qn_type *after, int *out_by, int *out_at);

// The width of an encoder's output "embedding" [R, width]; 0 when there is none, or logits.
int64_t qn_graph_embedding_size(const qn_graph *graph);
// Below what token ids are: the width of the output "logits" [R, vocabulary], or the rows of the smallest table that an
// encoder looks the input "tokens" up in. 0 when the graph is neither a language model nor an encoder.
int64_t qn_graph_vocab_size(const qn_graph *graph);

// Which part of the weights of `experts` experts a step of `tokens` tokens reads when each has `chosen` of them, any as
// likely.
double qn_expert_share(int64_t experts, int64_t chosen, double tokens);

// Uses of each value (operands and outputs), array of nodes.count from the arena; NULL when out of memory.
uint32_t *qn_graph_count_uses(const qn_graph *graph, qn_arena *arena);

// Cost of a node for given symbol values.
typedef struct qn_cost {
  double flops, bytes_read, bytes_written;
} qn_cost;
qn_cost qn_node_cost(const qn_graph *graph, qn_id id, const int64_t symbol_values[QN_SYM_COUNT]);

// --- rewriting (rewrite.c): a pass walks the old graph in order and says what each node becomes.
typedef struct qn_rewriter {
  const qn_graph *from;
  qn_graph *to;
  qn_id *map;     // old id → new id; 0 = dropped so far. from->nodes.count entries, arena
  void *context;  // the pass's own
  qn_diag *diag;
} qn_rewriter;
// Makes the new form of old node `id`: adds nodes to `to` and returns the id standing for it in *out (0 drops it; it
// is then an error if anything kept still uses it). rewriter->map gives the new ids of operands.
typedef qn_status (*qn_rewrite_fn)(qn_rewriter *rewriter, qn_id id, qn_id *out);
QN_CHECKED qn_status qn_graph_rewrite(const qn_graph *from, qn_arena *arena, qn_rewrite_fn fn, void *context,
                                      qn_graph **out, qn_diag *diag);
// What would make the old node again, operands mapped: for a pass to change.
QN_CHECKED qn_status qn_rewrite_spec(qn_rewriter *rewriter, qn_id id, qn_node_spec *out);
// The old node as it was, operands mapped: what a pass does with nodes it leaves alone.
QN_CHECKED qn_status qn_rewrite_keep(qn_rewriter *rewriter, qn_id id, qn_id *out);

// --- text
void qn_graph_print(const qn_graph *graph, qn_buf *out);
QN_CHECKED qn_status qn_graph_parse(const char *name, qn_str text, qn_arena *arena, qn_graph **out, qn_diag *diag);

// --- checking. A stage says what is legal: verify is called after every pass.
typedef enum qn_graph_stage {
  QN_STAGE_IMPORTED,  // any op but quantize and attention; no groups, no layouts
  QN_STAGE_FUSED,     // any op; groups where set are contiguous regions with one kernel's shape
  QN_STAGE_PLANNED,   // every node that computes has a group, every parameter a layout
} qn_graph_stage;
QN_CHECKED qn_status qn_graph_verify(const qn_graph *graph, qn_graph_stage stage, qn_diag *diag);

#endif
