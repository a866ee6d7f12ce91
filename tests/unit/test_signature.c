// Signatures of artifacts: a vector of RFC 8032, every byte of a signed file changed, other keys, and key files that
// are none.
#include "runtime/signature.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/model.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

static const uint8_t private_head[] = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
                                       0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};
static const uint8_t public_head[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

// RFC 8032, 7.3: "abc".
static const char seed_hex[] = "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42";
static const char signature_hex[] =
    "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
    "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406";

static void from_hex(const char *hex, uint8_t *out, size_t size) {
  for (size_t i = 0; i < size; i++) {
    char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
    out[i] = (uint8_t)strtoul(digits, NULL, 16);
  }
}

// Writes a key as openssl does: PEM of head and key.
static const char *write_key(const char *name, const char *kind, const uint8_t *head, size_t head_size,
                             const uint8_t *key, size_t key_size) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint8_t der[64] = {0};
  char text[256];
  size_t size = head_size + key_size, used = (size_t)snprintf(text, sizeof text, "-----BEGIN %s-----\n", kind);
  memcpy(der, head, head_size);
  memcpy(der + head_size, key, key_size);
  for (size_t i = 0; i < size; i += 3) {
    uint32_t bits = (uint32_t)der[i] << 16 | (uint32_t)der[i + 1] << 8 | der[i + 2];
    for (size_t j = 0; j < 4; j++) text[used++] = i * 8 + j * 6 < size * 8 ? alphabet[bits >> (18 - 6 * j) & 63] : '=';
  }
  used += (size_t)snprintf(text + used, sizeof text - used, "\n-----END %s-----\n", kind);
  const char *path = qn_test_temp_path(name);
  qn_test_write_file(path, text, used);
  return path;
}

static qn_signing_key read_key(const char *hex) {
  uint8_t seed[QN_ART_KEY_BYTES];
  qn_signing_key key;
  qn_diag diag = {0};
  from_hex(hex, seed, sizeof seed);
  const char *path = write_key("key.pem", "PRIVATE KEY", private_head, sizeof private_head, seed, sizeof seed);
  qn_assert_ok(&diag, qn_signing_key_read(path, qn_test_allocator(), &key, &diag));
  return key;
}

START_TEST(the_vector_of_the_rfc) {
  uint8_t want[QN_ART_SIGNATURE_BYTES], got[QN_ART_SIGNATURE_BYTES];
  qn_diag diag = {0};
  qn_signing_key key = read_key(seed_hex), none = {0};
  from_hex(signature_hex, want, sizeof want);
  qn_assert_ok(&diag, qn_signature_make(&key, (const uint8_t *)"abc", 3, got, &diag));
  ck_assert_mem_eq(got, want, sizeof want);
  qn_signing_key_wipe(&key);
  ck_assert_mem_eq(&key, &none, sizeof key);
}
END_TEST

static const qn_art_signature *unsigned_record;
static const uint8_t code_image[16] = {0xc3};
static const uint64_t code_offsets[QN_FAKE_KERNELS];
static void add_signature(qn_test_artifact *a) {
  qn_test_artifact_code(a, "plain", "", 0, code_image, sizeof code_image, code_offsets);
  qn_test_artifact_code(a, "plain", "", 1, code_image, sizeof code_image, code_offsets);
  qn_test_artifact_weight(a, "w", code_image, sizeof code_image);
  a->signature = unsigned_record;
}

// A signed artifact, as its writer makes one.
static qn_buf make_signed(const qn_signing_key *key) {
  qn_buf file;
  qn_diag diag = {0};
  qn_artifact artifact;
  qn_art_signature record = {0};
  memcpy(record.public_key, key->public_key, sizeof record.public_key);
  unsigned_record = &record;
  qn_fake_model_build(NULL, add_signature, &file);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t", &diag));
  size_t at = (size_t)(qn_signature_find(&artifact)->signature - artifact.mapping.data);
  qn_artifact_close(&artifact);
  uint8_t *to = (uint8_t *)file.data + at;
  qn_assert_ok(&diag, qn_signature_make(key, (const uint8_t *)file.data, file.length, to, &diag));
  return file;
}

static quern_status open_signed(const char *path, const char *key_path, quern_error *error) {
  quern_model *model = NULL;
  quern_model_options options = {.size = sizeof options, .signed_by = key_path};
  quern_status status = quern_model_open(path, &options, &model, error);
  quern_model_close(model);
  return status;
}

START_TEST(a_signed_file) {
  static const char other_hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
  quern_error error;
  qn_signing_key other = read_key(other_hex), key = read_key(seed_hex);
  qn_buf file = make_signed(&key);
  const char *path = qn_test_temp_path("signed.qn");
  const char *mine = write_key("mine.pem", "PUBLIC KEY", public_head, sizeof public_head, key.public_key, 32);
  const char *others = write_key("others.pem", "PUBLIC KEY", public_head, sizeof public_head, other.public_key, 32);
  qn_test_write_file(path, file.data, file.length);
  ck_assert_msg(open_signed(path, mine, &error) == QUERN_OK, "%s", error.text);
  ck_assert_int_eq(open_signed(path, NULL, &error), QUERN_OK);
  ck_assert_int_eq(open_signed(path, others, &error), QUERN_ERR_FORMAT);
  ck_assert_msg(strstr(error.text, "is signed by another key: got one that begins with") != NULL, "%s", error.text);
  ck_assert_int_eq(open_signed(path, qn_test_temp_path("none.pem"), &error), QUERN_ERR_IO);
  // Every byte counts, those that no checksum covers, too.
  for (size_t at = 0; at < file.length; at += qn_test_stride(7, 61)) {
    qn_diag diag = {0};
    qn_artifact artifact;
    file.data[at] ^= 0x20;
    qn_status status = qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "t", &diag);
    if (status == QN_OK) {
      status = qn_signature_check(&artifact, key.public_key, &diag);
      qn_artifact_close(&artifact);
    }
    qn_check(status == QN_ERR_FORMAT || (status == QN_ERR_UNSUPPORTED && at < 12), "byte %zu: got %d", at, (int)status);
    file.data[at] ^= 0x20;
  }
  qn_buf_deinit(&file);
  unsigned_record = NULL;
  qn_fake_model_build(NULL, add_signature, &file);
  qn_test_write_file(path, file.data, file.length);
  ck_assert_int_eq(open_signed(path, mine, &error), QUERN_ERR_FORMAT);
  ck_assert_msg(strstr(error.text, "is not signed, want a signature (quern compile --sign KEY)") != NULL, "%s",
                error.text);
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(files_that_are_no_keys) {
  qn_signing_key key;
  uint8_t bytes[QN_ART_KEY_BYTES] = {1};
  qn_diag diag = {0};
  const char *path = write_key("public.pem", "PUBLIC KEY", public_head, sizeof public_head, bytes, sizeof bytes);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "want a key as openssl writes it", qn_signing_key_read(path, qn_test_allocator(), &key, &diag));
  diag = (qn_diag){0};
  path = write_key("rsa.pem", "PUBLIC KEY", private_head, sizeof private_head, bytes, sizeof bytes);
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "got another kind of key, want Ed25519",
                  qn_public_key_read(path, qn_test_allocator(), bytes, &diag));
  for (size_t size = 0; size < sizeof bytes; size++) {
    diag = (qn_diag){0};
    path = write_key("short.pem", "PUBLIC KEY", public_head, sizeof public_head, bytes, size);
    qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "Ed25519", qn_public_key_read(path, qn_test_allocator(), bytes, &diag));
  }
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_IO, "none", qn_signing_key_read(qn_test_temp_path("none"), qn_test_allocator(), &key, &diag));
  char long_text[512] = "-----BEGIN PUBLIC KEY-----\n";
  memset(long_text + strlen(long_text), 'A', 400);
  strcat(long_text, "-----END PUBLIC KEY-----");
  qn_test_write_file(path, long_text, strlen(long_text));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "Ed25519", qn_public_key_read(path, qn_test_allocator(), bytes, &diag));
}
END_TEST

static TCase *signatures(void) {
  if (!dlopen("libsodium.so.23", RTLD_NOW)) qn_test_skip("no libsodium (Debian package libsodium23)");
  const TTest *const tests[] = {the_vector_of_the_rfc, a_signed_file, files_that_are_no_keys};
  return qn_test_case("signatures", tests, QN_COUNT(tests));
}
QN_TEST_MAIN(signatures)
