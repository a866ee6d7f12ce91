// Signatures of artifacts: Ed25519ph (RFC 8032), by libsodium, which is loaded when one is made or asked for. What is
// signed is every byte of the file, the signature's own taken as zeros, so that nothing in it can be changed: checksums
// find damage, this finds malice. Keys are files as OpenSSL writes them (RFC 8410, PEM).
#ifndef QN_RUNTIME_SIGNATURE_H
#define QN_RUNTIME_SIGNATURE_H

#include "runtime/artifact.h"

// A key that signs, from a file "PRIVATE KEY". Errors: IO, FORMAT, UNSUPPORTED (no libsodium; another kind of key),
// NOMEM.
typedef struct qn_signing_key {
  uint8_t secret[2 * QN_ART_KEY_BYTES];  // as libsodium wants it; to be wiped with qn_signing_key_wipe
  uint8_t public_key[QN_ART_KEY_BYTES];
} qn_signing_key;
QN_CHECKED qn_status qn_signing_key_read(const char *path, const qn_allocator *allocator, qn_signing_key *out,
                                         qn_diag *diag);
void qn_signing_key_wipe(qn_signing_key *key);
// The same from the text of such a file; `name` is for messages.
QN_CHECKED qn_status qn_signing_key_parse(const char *name, const char *text, qn_signing_key *out, qn_diag *diag);
// A key that checks, from a file "PUBLIC KEY". Errors: IO, FORMAT, UNSUPPORTED (another kind of key).
QN_CHECKED qn_status qn_public_key_read(const char *path, const qn_allocator *allocator, uint8_t out[QN_ART_KEY_BYTES],
                                        qn_diag *diag);
QN_CHECKED qn_status qn_public_key_parse(const char *name, const char *text, uint8_t out[QN_ART_KEY_BYTES],
                                         qn_diag *diag);

// Signs the bytes of a file in which the signature is still zeros.
QN_CHECKED qn_status qn_signature_make(const qn_signing_key *key, const uint8_t *data, size_t size,
                                       uint8_t out[QN_ART_SIGNATURE_BYTES], qn_diag *diag);
// Reads the whole file. FORMAT when it has no signature, or one by another key, or one that does not fit. UNSUPPORTED
// without libsodium.
QN_CHECKED qn_status qn_signature_check(const qn_artifact *artifact, const uint8_t public_key[QN_ART_KEY_BYTES],
                                        qn_diag *diag);
// The same with the key of a file (qn_public_key_read); NULL = any artifact will do. What every function that takes an
// artifact's code calls before it does.
QN_CHECKED qn_status qn_signature_demand(const qn_artifact *artifact, const char *key_path,
                                         const qn_allocator *allocator, qn_diag *diag);
// The artifact's signature, unchecked; NULL = none.
const qn_art_signature *qn_signature_find(const qn_artifact *artifact);

#endif
