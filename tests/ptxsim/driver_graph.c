// Graphs: lists of operations in an order that respects what depends on what, made by capturing streams or node by
// node; instances of them, which keep their own copies.
#include <stdio.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

// Copies an operation with its parameters. False when out of memory.
static bool op_copy(const ps_op *from, ps_op *out) {
  *out = *from;
  out->params = NULL;
  if (from->params == NULL) return true;
  out->params = qn_alloc(qn_allocator_default(), from->param_bytes);
  if (out->params == NULL) return false;
  memcpy(out->params, from->params, from->param_bytes);
  out->config.params = out->params;
  return true;
}

CUgraphNode ps_graph_add(CUgraph graph, const ps_op *op) {
  const qn_allocator *a = qn_allocator_default();
  CUgraphNode node = qn_alloc_zeroed(a, sizeof *node);
  if (node == NULL) return NULL;
  node->graph = graph;
  if (!op_copy(op, &node->op) || !qn_vec_push(a, &graph->nodes, node)) {
    ps_op_deinit(&node->op);
    qn_free(a, node, sizeof *node);
    return NULL;
  }
  return node;
}

CUresult cuGraphCreate(CUgraph *out, unsigned flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  CUgraph g = qn_alloc_zeroed(qn_allocator_default(), sizeof *g);
  *out = g;
  return ps_leave(g != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuGraphDestroy(CUgraph g) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  if (g == NULL) return ps_leave(CUDA_ERROR_INVALID_VALUE);
  for (size_t k = 0; k < g->nodes.count; k++) {
    ps_op_deinit(&g->nodes.items[k]->op);
    qn_free(qn_allocator_default(), g->nodes.items[k], sizeof *g->nodes.items[k]);
  }
  qn_vec_free(qn_allocator_default(), &g->nodes);
  qn_free(qn_allocator_default(), g, sizeof *g);
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuGraphGetNodes(CUgraph g, CUgraphNode *out, size_t *count) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  for (size_t k = 0; out != NULL && k < *count && k < g->nodes.count; k++) out[k] = g->nodes.items[k];
  if (out == NULL || *count > g->nodes.count) *count = g->nodes.count;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuGraphNodeGetType(CUgraphNode node, int *out) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  *out = node->op.kind == PS_OP_KERNEL ? CU_GRAPH_NODE_TYPE_KERNEL
         : node->op.kind == PS_OP_COPY ? CU_GRAPH_NODE_TYPE_MEMCPY
         : node->op.kind == PS_OP_FILL ? CU_GRAPH_NODE_TYPE_MEMSET
                                       : CU_GRAPH_NODE_TYPE_EMPTY;
  return ps_leave(CUDA_SUCCESS);
}

// ---- kernel nodes ----

static CUresult kernel_op(const CUDA_KERNEL_NODE_PARAMS_v2 *p, ps_op *out) {
  return ps_make_launch(p->function, p->grid, p->block, p->shared_bytes, p->params, p->extra, out);
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *dependencies, size_t count,
                                 const CUDA_KERNEL_NODE_PARAMS_v2 *params) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  for (size_t k = 0; k < count; k++) {  // they are earlier in the list, as they exist
    if (dependencies[k] == NULL || dependencies[k]->graph != g) {
      return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "a dependency is no node of the graph"));
    }
  }
  ps_op op;
  r = kernel_op(params, &op);
  if (r != CUDA_SUCCESS) return ps_leave(r);
  *out = ps_graph_add(g, &op);
  ps_op_deinit(&op);
  return ps_leave(*out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v2 *params) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (node->op.kind != PS_OP_KERNEL) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "the node is no kernel's"));
  ps_op op;
  r = kernel_op(params, &op);
  if (r != CUDA_SUCCESS) return ps_leave(r);
  ps_op_deinit(&node->op);
  node->op = op;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                           const CUDA_KERNEL_NODE_PARAMS_v2 *params) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  r = ps_flush();  // launches that are queued keep what they had
  for (size_t k = 0; k < exec->ops.count && r == CUDA_SUCCESS; k++) {
    if (exec->origins.items[k] != node || exec->ops.items[k].kind != PS_OP_KERNEL) continue;
    ps_op op;
    r = kernel_op(params, &op);
    if (r != CUDA_SUCCESS) return ps_leave(r);
    ps_op_deinit(&exec->ops.items[k]);
    exec->ops.items[k] = op;
    return ps_leave(CUDA_SUCCESS);
  }
  return ps_leave(r != CUDA_SUCCESS ? r : ps_error(CUDA_ERROR_INVALID_VALUE, "the node is no kernel of this graph"));
}

// ---- instances ----

static void exec_free(CUgraphExec exec) {
  for (size_t k = 0; k < exec->ops.count; k++) ps_op_deinit(&exec->ops.items[k]);
  qn_vec_free(qn_allocator_default(), &exec->ops);
  qn_vec_free(qn_allocator_default(), &exec->origins);
  qn_free(qn_allocator_default(), exec, sizeof *exec);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  const qn_allocator *a = qn_allocator_default();
  if (g == NULL || g->capturing) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "the graph is still captured"));
  CUgraphExec exec = qn_alloc_zeroed(a, sizeof *exec);
  bool ok = exec != NULL;
  for (size_t k = 0; k < g->nodes.count && ok; k++) {
    ps_op op;
    ok = op_copy(&g->nodes.items[k]->op, &op) && qn_vec_push(a, &exec->ops, op) &&
         qn_vec_push(a, &exec->origins, g->nodes.items[k]);
  }
  if (!ok && exec != NULL) exec_free(exec);
  if (ok) *out = exec;
  return ps_leave(ok ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuGraphInstantiate_v2(CUgraphExec *out, CUgraph g, CUgraphNode *error_node, char *log, size_t log_bytes) {
  if (error_node != NULL) *error_node = NULL;
  if (log != NULL && log_bytes > 0) log[0] = '\0';
  return cuGraphInstantiateWithFlags(out, g, 0);
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
  CUresult r = ps_enter_giving_back();
  if (r != CUDA_SUCCESS) return r;
  if (exec == NULL) return ps_leave(CUDA_ERROR_INVALID_VALUE);
  r = ps_flush();
  exec_free(exec);
  return ps_leave(r);
}

// Takes over the graph's parameters where it has the same operations; else the caller instantiates anew.
CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph g, CUgraphExecUpdateResultInfo *out) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  enum { UPDATE_SUCCESS = 0, UPDATE_TOPOLOGY_CHANGED = 2 };
  *out = (CUgraphExecUpdateResultInfo){.result = UPDATE_SUCCESS};
  r = ps_flush();
  if (r != CUDA_SUCCESS) return ps_leave(r);
  bool same = exec->ops.count == g->nodes.count;
  for (size_t k = 0; k < g->nodes.count && same; k++) {
    const ps_op *now = &g->nodes.items[k]->op, *before = &exec->ops.items[k];
    same = now->kind == before->kind && now->context == before->context;
    if (!same) out->error_node = g->nodes.items[k];
  }
  if (!same) {
    out->result = UPDATE_TOPOLOGY_CHANGED;
    return ps_leave(ps_error(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph has other operations than its instance"));
  }
  for (size_t k = 0; k < g->nodes.count; k++) {
    ps_op op;
    if (!op_copy(&g->nodes.items[k]->op, &op)) return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
    ps_op_deinit(&exec->ops.items[k]);
    exec->ops.items[k] = op;
    exec->origins.items[k] = g->nodes.items[k];
  }
  return ps_leave(CUDA_SUCCESS);
}

CUresult ps_run_graph(CUgraphExec exec) {
  CUresult r = CUDA_SUCCESS;
  for (size_t k = 0; k < exec->ops.count && r == CUDA_SUCCESS; k++) r = ps_run_op(&exec->ops.items[k]);
  return r;
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (exec == NULL) return ps_leave(CUDA_ERROR_INVALID_VALUE);
  ps_op op = {.kind = PS_OP_GRAPH, .context = ps_current, .exec = exec};
  const CUstream s = ps_stream(stream);
  if (s != NULL && s->capture != NULL) return ps_leave(ps_refuse_capture());
  ps_the_driver.counts.graph_launches++;
  ps_the_driver.counts.graph_nodes += exec->ops.count;
  return ps_leave(ps_submit(stream, &op));
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  return ps_leave(exec != NULL && ps_stream(stream) != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
