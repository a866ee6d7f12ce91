// Weights to a GPU: from the mapped file through two pieces of pinned memory, so that one is filled while the other is
// on its way.
#include <string.h>

#include "runtime/device_cuda_impl.h"

enum { PIECES = 2, PIECE_BYTES = 8 << 20 };

typedef struct upload {
  qn_cu_stream stream;
  size_t piece_bytes;
  struct {
    void *pinned;
    qn_cu_event event;  // recorded behind its copy
  } pieces[PIECES];
} upload;

static qn_status prepare(qn_cuda *c, upload *u, qn_diag *diag) {
  size_t size = c->artifact->weights_size;
  u->piece_bytes = size < PIECE_BYTES ? size : PIECE_BYTES;
  QN_TRY(qn_cuda_try(c, c->driver.stream_create(&u->stream, QN_CU_STREAM_NON_BLOCKING), "making a stream", diag));
  for (int i = 0; i < PIECES; i++) {
    QN_TRY(qn_cuda_take_pinned(c, u->piece_bytes, "weights on their way", &u->pieces[i].pinned, diag));
    qn_cu_result result = c->driver.event_create(&u->pieces[i].event, QN_CU_EVENT_DISABLE_TIMING);
    QN_TRY(qn_cuda_try(c, result, "making an event", diag));
  }
  return QN_OK;
}

static qn_status copy_all(qn_cuda *c, upload *u, qn_diag *diag) {
  const qn_artifact *a = c->artifact;
  const qn_cuda_driver *d = &c->driver;
  qn_cu_result result = QN_CU_SUCCESS;
  size_t index = 0;
  for (size_t at = 0; at < a->weights_size && result == QN_CU_SUCCESS; at += u->piece_bytes, index++) {
    size_t left = a->weights_size - at, count = left < u->piece_bytes ? left : u->piece_bytes;
    void *pinned = u->pieces[index % PIECES].pinned;
    qn_cu_event event = u->pieces[index % PIECES].event;
    if (index >= PIECES) result = d->event_wait(event);
    if (result != QN_CU_SUCCESS) break;
    memcpy(pinned, a->weights + at, count);
    result = d->to_device(c->weights + at, pinned, count, u->stream);
    if (result == QN_CU_SUCCESS) result = d->event_record(event, u->stream);
  }
  if (result == QN_CU_SUCCESS) result = d->stream_wait(u->stream);
  return qn_cuda_try(c, result, "copying the weights there", diag);
}

qn_status qn_cuda_load_weights(qn_cuda *c, qn_diag *diag) {
  const qn_artifact *a = c->artifact;
  upload u = {0};
  if (a->weights_size == 0) return QN_OK;
  QN_TRY(qn_cuda_take(c, a->weights_size, "the weights", "a smaller model or format would fit", &c->weights, diag));
  qn_status status = prepare(c, &u, diag);
  if (status == QN_OK) status = copy_all(c, &u, diag);
  for (int i = 0; i < PIECES; i++) {
    if (u.pieces[i].event) c->driver.event_destroy(u.pieces[i].event);
    if (u.pieces[i].pinned) c->driver.give_back_pinned(u.pieces[i].pinned);
  }
  if (u.stream) c->driver.stream_destroy(u.stream);
  return status;
}
