// Pages of a KV cache: every element and scale has a place of its own in its head, bytes belong to one token, and what
// is cleared is a token's.
#include "runtime/base/kv_page.h"

#include <math.h>
#include <string.h>

#include "ir/type.h"
#include "tests/support/test.h"

static const qn_dtype dtypes[] = {QN_DTYPE_F32, QN_DTYPE_F16, QN_DTYPE_BF16, QN_DTYPE_KV8, QN_DTYPE_KV4};
static const int64_t widths[] = {1, 7, 8, 16, 20, 31, 48, 64, 80, 128, 256};

static qn_kv_page make(qn_dtype dtype, bool is_k, int64_t heads, int64_t width) {
  qn_kv_page page;
  ck_assert(qn_kv_page_make((uint32_t)dtype, is_k, heads, width, 64, &page));
  return page;
}

// Marks the bits of an element or scale as token `key`'s; a byte is of one token, and no bit is anybody else's.
static void claim(uint8_t *bits, int *owner, int64_t at, int mask, int64_t key) {
  qn_check((bits[at] & mask) == 0, "byte %d is taken", (int)at);
  qn_check(owner[at] == 0 || owner[at] == (int)key + 1, "byte %d is of token %d", (int)at, owner[at] - 1);
  bits[at] |= (uint8_t)mask;
  owner[at] = (int)key + 1;
}

static void check_places(const qn_kv_page *page) {
  static uint8_t bits[1 << 17];
  static int owner[1 << 17];
  memset(bits, 0, sizeof bits);
  memset(owner, 0, sizeof owner);
  ck_assert_int_le(page->head_bytes, (int64_t)sizeof bits);
  ck_assert_int_eq(page->page_bytes, page->heads * page->head_bytes);
  for (int64_t key = 0; key < page->keys; key++) {
    for (int64_t c = 0; c < page->width; c++) {
      int shift;
      int64_t at = qn_kv_page_place(page, key, c, &shift), bytes = page->bits < 8 ? 1 : page->bits / 8;
      qn_check(at >= 0 && at + bytes <= (page->coded ? page->scales_at : page->head_bytes), "byte %d", (int)at);
      for (int64_t i = 0; i < bytes; i++) claim(bits, owner, at + i, page->bits == 4 ? 15 << shift : 255, key);
    }
    for (int64_t c = 0; page->coded && c < page->width; c += page->group_width) {
      int64_t at = qn_kv_page_scale(page, key, c);
      qn_check(at >= page->scales_at && at + 2 <= page->head_bytes && at % 2 == 0, "byte %d", (int)at);
      for (int64_t i = 0; i < 2; i++) claim(bits, owner, at + i, 255, key);
    }
  }
}

START_TEST(places) {
  for (size_t d = 0; d < QN_COUNT(dtypes); d++) {
    for (size_t w = 0; w < QN_COUNT(widths); w++) {
      for (int is_k = 0; is_k < 2; is_k++) {
        qn_kv_page page = make(dtypes[d], is_k != 0, 3, widths[w]);
        check_places(&page);
        ck_assert(qn_dtype_is_cached(dtypes[d]));
      }
    }
  }
  // Of a head_dim of 64, in bytes a key: F16 has 128.
  ck_assert_int_eq(make(QN_DTYPE_F16, true, 1, 64).head_bytes, 64 * 128);
  ck_assert_int_eq(make(QN_DTYPE_KV8, true, 1, 64).head_bytes, 64 * 66);
  ck_assert_int_eq(make(QN_DTYPE_KV8, false, 1, 64).head_bytes, 64 * 66);
  ck_assert_int_eq(make(QN_DTYPE_KV4, true, 1, 64).head_bytes, 64 * 34);
  ck_assert_int_eq(make(QN_DTYPE_KV4, false, 1, 64).head_bytes, 64 * 36);
}
END_TEST

START_TEST(codes) {
  static uint8_t head[1 << 15], all[1 << 16];
  for (int kind = 0; kind < 4; kind++) {
    qn_kv_page page = make(kind < 2 ? QN_DTYPE_KV8 : QN_DTYPE_KV4, kind % 2 == 0, 2, 40);
    memset(head, 0x5A, sizeof head);
    for (int64_t i = 0; i < page.keys * page.width; i++) {
      int number = (int)(i * 7919 % (2 * page.most + 1)) - page.most;
      qn_kv_page_set_code(&page, head, i / page.width, i % page.width, number);
    }
    for (int64_t i = 0; i < page.keys * page.width; i++) {
      int number = (int)(i * 7919 % (2 * page.most + 1)) - page.most;
      int got = qn_kv_page_get_code(&page, head, i / page.width, i % page.width);
      qn_check(got == number, "code %d is %d, not %d", (int)i, got, number);
    }
    memcpy(all, head, (size_t)page.head_bytes);
    memcpy(all + page.head_bytes, head, (size_t)page.head_bytes);
    qn_kv_page_clear(&page, 5, all);
    for (int64_t i = 0; i < page.keys * page.width; i++) {
      int64_t key = i / page.width, c = i % page.width, at = page.head_bytes + qn_kv_page_scale(&page, key, c);
      int shift;
      int64_t place = page.head_bytes + qn_kv_page_place(&page, key, c, &shift);
      qn_check(all[place] == (key < 5 ? head[place - page.head_bytes] : 0), "code %d is %d", (int)i, all[place]);
      qn_check(all[at] == (key < 5 ? 0x5A : 0), "scale of code %d is %d", (int)i, all[at]);
    }
  }
}
END_TEST

// What a head of made-up bytes holds, by hand; and a key of it in another place, of another page.
START_TEST(values_and_copies) {
  static uint8_t head[1 << 16], other[1 << 16], before[1 << 16];
  for (size_t d = 0; d < 2 * QN_COUNT(dtypes); d++) {
    qn_dtype dtype = dtypes[d / 2];
    qn_kv_page page = make(dtype, d % 2 == 0, 1, 40);
    for (int64_t i = 0; i < page.keys * page.width; i++) {
      int64_t key = i / page.width, c = i % page.width;
      int number = (int)(i * 7919 % 15) - 7, shift;
      float value = (float)number * 0.25f;
      uint8_t *at = head + qn_kv_page_place(&page, key, c, &shift);
      uint16_t half = dtype == QN_DTYPE_F16 ? qn_f32_to_f16(value) : qn_f32_to_bf16(value);
      uint16_t scale = qn_f32_to_bf16(0.25f * (float)(1 + key % 3));
      if (page.coded) {
        qn_kv_page_set_code(&page, head, key, c, number);
        memcpy(head + qn_kv_page_scale(&page, key, c), &scale, sizeof scale);
      } else {
        memcpy(at, page.bits == 32 ? (const void *)&value : (const void *)&half, (size_t)page.bits / 8);
      }
    }
    for (int64_t i = 0; i < page.keys * page.width; i++) {
      int64_t key = i / page.width;
      float want = (float)((int)(i * 7919 % 15) - 7) * 0.25f * (page.coded ? (float)(1 + key % 3) : 1);
      float got = qn_kv_page_value(&page, head, key, i % page.width);
      qn_check(got == want, "value %d of kind %d is %g, not %g", (int)i, (int)d, (double)got, (double)want);
    }
    memset(other, 0x5A, sizeof other);
    memcpy(before, other, sizeof before);
    qn_kv_page_copy(&page, head, 17, other, 3);
    for (int64_t c = 0; c < page.width; c++)
      ck_assert(qn_kv_page_value(&page, other, 3, c) == qn_kv_page_value(&page, head, 17, c));
    qn_kv_page_copy(&page, before, 3, other, 3);  // nothing else was written
    ck_assert(memcmp(other, before, sizeof other) == 0);
  }
}
END_TEST

START_TEST(halves) {
  static const struct {
    uint16_t bits;
    float value;
  } cases[] = {
      {0, 0},          {0x3C00, 1},        {0xC000, -2}, {1, 0x1p-24f}, {0x03FF, 1023 * 0x1p-24f}, {0x0400, 0x1p-14f},
      {0x7BFF, 65504}, {0xFC00, -INFINITY}};
  static uint8_t head[1 << 16];
  qn_kv_page page = make(QN_DTYPE_F16, false, 1, 8);
  int shift;
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    memcpy(head + qn_kv_page_place(&page, 5, (int64_t)i, &shift), &cases[i].bits, sizeof cases[i].bits);
    ck_assert(qn_kv_page_value(&page, head, 5, (int64_t)i) == cases[i].value);
  }
  memcpy(head + qn_kv_page_place(&page, 5, 0, &shift), &(uint16_t){0x7E00}, sizeof(uint16_t));
  ck_assert(isnan(qn_kv_page_value(&page, head, 5, 0)));
}
END_TEST

START_TEST(refused) {
  qn_kv_page page;
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_I32, true, 1, 64, 64, &page));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_Q8_0, true, 1, 64, 64, &page));
  ck_assert(!qn_dtype_is_cached(QN_DTYPE_Q8_0));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_KV8, true, 1, 64, 16, &page));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_KV8, false, 0, 64, 64, &page));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_F32, false, 1, -1, 64, &page));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_F32, false, 1 << 20, 1 << 20, 64, &page));
  ck_assert(!qn_kv_page_make((uint32_t)QN_DTYPE_F32, false, INT64_MAX, 64, 64, &page));
}
END_TEST

QN_CASE(kv_page, places, codes, values_and_copies, halves, refused)
QN_TEST_MAIN(kv_page)
