// Streams and events. What is submitted waits in one queue, in the order of submission, until the host waits or asks:
// the last moment that is allowed, so that a synchronisation that is missing shows.
#include <stdio.h>
#include <time.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

CUstream ps_stream(CUstream handle) {
  ps_driver *d = &ps_the_driver;
  if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) return &d->default_stream;
  for (size_t k = 0; k < d->streams.count; k++) {
    if (d->streams.items[k] == handle) return handle;
  }
  ps_error(CUDA_ERROR_INVALID_HANDLE, "the stream is none, or it was destroyed");
  return NULL;
}

void ps_op_deinit(ps_op *op) {
  qn_free(qn_allocator_default(), op->params, op->param_bytes);
  op->params = NULL;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

CUresult ps_run_op(ps_op *op) {
  switch (op->kind) {
    case PS_OP_KERNEL: return ps_run_kernel(op);
    case PS_OP_COPY: return ps_run_copy(op);
    case PS_OP_FILL: return ps_run_fill(op);
    case PS_OP_GRAPH: return ps_run_graph(op->exec);
    case PS_OP_EVENT:
      op->event->recorded = true;
      op->event->pending = false;
      op->event->time_ns = now_ns();
      return CUDA_SUCCESS;
    case PS_OP_NOTHING: return CUDA_SUCCESS;
  }
  return CUDA_ERROR_UNKNOWN;
}

CUresult ps_flush(void) {
  ps_driver *d = &ps_the_driver;
  CUresult r = CUDA_SUCCESS;
  for (size_t k = 0; k < d->queue.count; k++) {
    // Behind a fault nothing runs any more.
    if (r == CUDA_SUCCESS && d->sticky == CUDA_SUCCESS) r = ps_run_op(&d->queue.items[k]);
    ps_op_deinit(&d->queue.items[k]);
  }
  d->queue.count = 0;
  return d->sticky != CUDA_SUCCESS ? d->sticky : r;
}

CUresult ps_submit(CUstream handle, ps_op *op) {
  ps_driver *d = &ps_the_driver;
  CUstream s = ps_stream(handle);
  bool queued = false;
  CUresult r = CUDA_ERROR_INVALID_HANDLE;
  if (s != NULL && s->capture != NULL) {
    r = ps_graph_add(s->capture, op) != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  } else if (s != NULL) {
    queued = qn_vec_push(qn_allocator_default(), &d->queue, *op);
    r = queued ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (!queued) {
    ps_op_deinit(op);
    return r;
  }
  enum { LONG_QUEUE = 1 << 14 };
  return d->eager || d->queue.count > LONG_QUEUE ? ps_flush() : CUDA_SUCCESS;
}

bool ps_capturing(void) {
  ps_driver *d = &ps_the_driver;
  for (size_t k = 0; k < d->streams.count; k++) {
    if (d->streams.items[k]->capture != NULL) return true;
  }
  return false;
}

CUresult ps_refuse_capture(void) {
  ps_driver *d = &ps_the_driver;
  for (size_t k = 0; k < d->streams.count; k++) {
    if (d->streams.items[k]->capture != NULL) d->streams.items[k]->capture->broken = true;
  }
  return ps_error(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the call is not allowed while a stream is captured");
}

// ---- streams ----

CUresult cuStreamCreate(CUstream *out, unsigned flags) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = qn_alloc_zeroed(qn_allocator_default(), sizeof *s);
  if (s == NULL) return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
  s->context = ps_current;
  s->flags = flags;
  if (!qn_vec_push(qn_allocator_default(), &ps_the_driver.streams, s)) {
    qn_free(qn_allocator_default(), s, sizeof *s);
    return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
  }
  *out = s;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority) {
  (void)priority;
  return cuStreamCreate(out, flags);
}

CUresult cuStreamDestroy_v2(CUstream handle) {
  CUresult r = ps_enter_giving_back();
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL || s == &ps_the_driver.default_stream) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  r = ps_flush();
  for (size_t k = 0; k < ps_the_driver.streams.count; k++) {
    if (ps_the_driver.streams.items[k] == s) {
      ps_the_driver.streams.items[k] = ps_the_driver.streams.items[--ps_the_driver.streams.count];
      break;
    }
  }
  qn_free(qn_allocator_default(), s, sizeof *s);
  return ps_leave(r);
}

CUresult cuStreamSynchronize(CUstream handle) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture != NULL) return ps_leave(ps_refuse_capture());
  ps_the_driver.counts.synchronisations++;
  return ps_leave(ps_flush());
}

// The first question makes the stream run; only the next one finds it ready.
CUresult cuStreamQuery(CUstream handle) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (s->capture != NULL) return ps_leave(ps_refuse_capture());
  if (ps_the_driver.queue.count == 0) return ps_leave(CUDA_SUCCESS);
  r = ps_flush();
  return ps_leave(r == CUDA_SUCCESS ? CUDA_ERROR_NOT_READY : r);
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL || event == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->capture != NULL && s->capture == NULL) s->capture = event->capture;  // joins the capture
  return ps_leave(CUDA_SUCCESS);  // the queue keeps the order of submission
}

CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
  (void)mode;
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (s == &ps_the_driver.default_stream) {
    return ps_leave(ps_error(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot be captured"));
  }
  if (s->capture != NULL) return ps_leave(ps_error(CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already"));
  CUgraph g = qn_alloc_zeroed(qn_allocator_default(), sizeof *g);
  if (g == NULL) return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
  g->capturing = true;
  s->capture = g;
  s->origin = true;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *out) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  ps_driver *d = &ps_the_driver;
  CUstream s = ps_stream(handle);
  if (s == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  CUgraph g = s->capture;
  if (g == NULL || !s->origin) return ps_leave(ps_error(CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured"));
  for (size_t k = 0; k < d->streams.count; k++) {
    if (d->streams.items[k]->capture == g) d->streams.items[k]->capture = NULL;
  }
  s->origin = false;
  g->capturing = false;
  if (g->broken) {
    pthread_mutex_unlock(&d->lock);
    cuGraphDestroy(g);
    pthread_mutex_lock(&d->lock);
    *out = NULL;
    return ps_leave(ps_error(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "a call that is not allowed broke the capture"));
  }
  *out = g;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuStreamIsCapturing(CUstream handle, int *out) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  *out = s->capture != NULL ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return ps_leave(CUDA_SUCCESS);
}

// ---- events ----

CUresult cuEventCreate(CUevent *out, unsigned flags) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUevent e = qn_alloc_zeroed(qn_allocator_default(), sizeof *e);
  if (e == NULL) return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
  e->flags = flags;
  *out = e;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuEventDestroy_v2(CUevent e) {
  CUresult r = ps_enter_giving_back();
  if (r != CUDA_SUCCESS) return r;
  if (e == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  r = e->pending || ps_the_driver.sticky != CUDA_SUCCESS ? ps_flush() : CUDA_SUCCESS;
  qn_free(qn_allocator_default(), e, sizeof *e);
  return ps_leave(r);
}

CUresult cuEventRecord(CUevent e, CUstream handle) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  CUstream s = ps_stream(handle);
  if (s == NULL || e == NULL) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  e->capture = s->capture;
  if (s->capture != NULL) return ps_leave(CUDA_SUCCESS);  // a dependency; the order of the nodes keeps it
  e->recorded = false;
  e->pending = true;
  ps_op op = {.kind = PS_OP_EVENT, .context = ps_current, .event = e};
  return ps_leave(ps_submit(handle, &op));
}

CUresult cuEventSynchronize(CUevent e) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  ps_the_driver.counts.synchronisations++;
  return ps_leave(e->pending ? ps_flush() : CUDA_SUCCESS);
}

CUresult cuEventQuery(CUevent e) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!e->pending) return ps_leave(CUDA_SUCCESS);
  r = ps_flush();
  return ps_leave(r == CUDA_SUCCESS ? CUDA_ERROR_NOT_READY : r);
}

CUresult cuEventElapsedTime(float *out_ms, CUevent from, CUevent to) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  enum { EVENT_DISABLE_TIMING = 2 };
  if (from->pending || to->pending) return ps_leave(CUDA_ERROR_NOT_READY);
  if (!from->recorded || !to->recorded || ((from->flags | to->flags) & EVENT_DISABLE_TIMING) != 0) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_HANDLE, "an event was not recorded, or keeps no time"));
  }
  *out_ms = (float)((double)((int64_t)to->time_ns - (int64_t)from->time_ns) / 1e6);
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuEventElapsedTime_v2(float *out_ms, CUevent from, CUevent to) { return cuEventElapsedTime(out_ms, from, to); }
