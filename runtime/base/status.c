// The words for status values.
#include "runtime/base/status.h"

const char *qn_status_name(qn_status status) {
  switch (status) {
    case QN_OK: return "ok";
    case QN_ERR_ARGUMENT: return "argument";
    case QN_ERR_FORMAT: return "format";
    case QN_ERR_UNSUPPORTED: return "unsupported";
    case QN_ERR_IO: return "io";
    case QN_ERR_NOMEM: return "nomem";
    case QN_ERR_TARGET: return "target";
    case QN_ERR_LIMIT: return "limit";
    case QN_ERR_CANCELLED: return "cancelled";
    case QN_ERR_INTERNAL: return "internal";
  }
  return "unknown";
}
