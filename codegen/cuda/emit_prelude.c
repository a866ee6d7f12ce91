// The functions that written kernels call: what C++ has no operator for, or leaves undefined.
#include <assert.h>

#include "codegen/cuda/emit_internal.h"
#include "ir/math.h"

// i32 arithmetic wraps, which C++ promises of unsigned alone. Conversions to and from f16 are instructions; those of
// bf16 are done on the bits, as on every other target. Sign and magnitude are the bits', also of a NaN.
static const char prelude[] =
    "static inline int qn_add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }\n"
    "static inline int qn_sub(int a, int b) { return (int)((unsigned)a - (unsigned)b); }\n"
    "static inline int qn_mul(int a, int b) { return (int)((unsigned)a * (unsigned)b); }\n"
    "static inline int qn_neg(int a) { return (int)(0u - (unsigned)a); }\n"
    "static inline int qn_shl(int a, int b) { return (int)((unsigned)a << b); }\n"
    "static inline int qn_shr(int a, int b) { return (int)((unsigned)a >> b); }\n"
    "template <typename T> static inline T qn_min(T a, T b) { return a < b ? a : b; }\n"
    "template <typename T> static inline T qn_max(T a, T b) { return a > b ? a : b; }\n"
    "template <typename T> static inline T qn_div(T a, T b) { return a / b - (a % b < 0); }  // floor; b > 0\n"
    "template <typename T> static inline T qn_mod(T a, T b) { return a % b + (a % b < 0 ? b : 0); }\n"
    "static inline float qn_neg(float x) { return __int_as_float(__float_as_int(x) ^ (int)0x80000000); }\n"
    "static inline float qn_abs(float x) { return __int_as_float(__float_as_int(x) & 0x7fffffff); }\n"
    "\n"
    "static inline float qn_f16(unsigned short bits) {\n"
    "  float x;\n"
    "  asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(x) : \"h\"(bits));\n"
    "  return x;\n"
    "}\n"
    "static inline unsigned short qn_to_f16(float x) {\n"
    "  unsigned short bits;\n"
    "  asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(bits) : \"f\"(x));\n"
    "  return bits;\n"
    "}\n"
    "static inline float qn_bf16(unsigned short bits) { return __int_as_float((int)((unsigned)bits << 16)); }\n"
    "static inline unsigned short qn_to_bf16(float x) {  // nearest even; NaN stays one\n"
    "  unsigned bits = (unsigned)__float_as_int(x), high = bits >> 16;\n"
    "  bool nan = (bits & 0x7fffffff) > 0x7f800000;\n"
    "  return (unsigned short)(nan ? high | 0x40 : (bits + 0x7fff + (high & 1)) >> 16);\n"
    "}\n"
    "\n"
    "static inline int qn_dot4(int sum, int bytes, int signed_bytes) {  // unsigned by signed\n"
    "  int result;\n"
    "  asm(\"dp4a.u32.s32 %0, %1, %2, %3;\" : \"=r\"(result) : \"r\"(bytes), \"r\"(signed_bytes), \"r\"(sum));\n"
    "  return result;\n"
    "}\n"
    "static inline int qn_dot4s(int sum, int a, int b) { return __dp4a(a, b, sum); }\n"
    "static inline int qn_dot2(int sums, int bytes, int signed_bytes) {  // two sums of 16 bits\n"
    "  unsigned low = (unsigned)qn_dot4(0, bytes & 0xffff, signed_bytes);\n"
    "  unsigned high = (unsigned)qn_dot4(0, bytes & (int)0xffff0000, signed_bytes);\n"
    "  return (int)((((unsigned)sums + low) & 0xffff) | (((unsigned)sums + (high << 16)) & 0xffff0000));\n"
    "}\n"
    "static inline int qn_fold2(int sums) { return (short)sums + (short)((unsigned)sums >> 16); }\n"
    "static inline int qn_unbias(int a, int b) { return qn_neg(qn_mul(a, b)); }\n"
    "// Bytes into shared memory that arrive when they are waited for; 16 of them pass by the first cache.\n"
    "template <int bytes> static inline void qn_copy(void *to, const void *from) {\n"
    "  const unsigned place = (unsigned)__cvta_generic_to_shared(to);\n"
    "  if constexpr (bytes == 16) {\n"
    "    asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\" ::\"r\"(place), \"l\"(from) : \"memory\");\n"
    "  } else {\n"
    "    asm volatile(\"cp.async.ca.shared.global [%0], [%1], %2;\"\n"
    "                 ::\"r\"(place), \"l\"(from), \"n\"(bytes) : \"memory\");\n"
    "  }\n"
    "}\n"
    "static inline void qn_commit() { asm volatile(\"cp.async.commit_group;\" ::: \"memory\"); }\n"
    "template <int groups> static inline void qn_wait() {\n"
    "  asm volatile(\"cp.async.wait_group %0;\" ::\"n\"(groups) : \"memory\");\n"
    "}\n"
    "// Each byte's low nibble picks one of 16 bytes: permutations pick among 8 by three bits, the fourth chooses.\n"
    "static inline int qn_lut16(int x, unsigned t0, unsigned t1, unsigned t2, unsigned t3) {\n"
    "  unsigned nibbles = (unsigned)x & 0x0f0f0f0f;\n"
    "  unsigned picks = __byte_perm(nibbles | nibbles >> 4, 0, 0x4420);\n"
    "  unsigned low = __byte_perm(t0, t1, picks & 0x7777), high = __byte_perm(t2, t3, picks & 0x7777);\n"
    "  return (int)__byte_perm(low, high, 0x3210 | (picks & 0x8888) >> 1);\n"
    "}\n";

void qn_cuda_put_prelude(qn_buf *out) { qn_buf_puts(out, prelude); }

static void put_operand_call(qn_buf *out, const char *function, const qn_math_ins *ins, int count) {
  const short operands[] = {ins->a, ins->b, ins->c};
  qn_buf_printf(out, "%s(", function);
  for (int i = 0; i < count; i++) qn_buf_printf(out, "%sv%d", i ? ", " : "", operands[i]);
  qn_buf_putc(out, ')');
}

typedef enum value_kind { IS_FLOAT, IS_INT, IS_BOOL } value_kind;

// The function that an operator of a math program is; NULL = it is written between its operands.
static const char *function_of(qn_lop op, value_kind kind) {
  switch (op) {
    case QN_LX_ADD: return kind == IS_INT ? "qn_add" : NULL;
    case QN_LX_SUB: return kind == IS_INT ? "qn_sub" : NULL;
    case QN_LX_MUL: return kind == IS_INT ? "qn_mul" : NULL;
    case QN_LX_MIN: return "qn_min";
    case QN_LX_MAX: return "qn_max";
    case QN_LX_NEG: return "qn_neg";
    case QN_LX_ABS: return "qn_abs";
    case QN_LX_SQRT: return "sqrtf";
    case QN_LX_ROUND: return "rintf";
    case QN_LX_FMA: return "fmaf";
    case QN_LX_SHL: return "qn_shl";
    case QN_LX_SHR: return "qn_shr";
    case QN_LX_TO_F32: return "(float)";
    case QN_LX_TO_I32: return "(int)";
    case QN_LX_AS_F32: return "__int_as_float";
    case QN_LX_AS_I32: return "__float_as_int";
    default: return NULL;
  }
}

static void put_instruction(qn_buf *out, const qn_math_ins *ins, value_kind kind) {
  static const struct {
    qn_lop op;
    const char *text;
  } infix[] = {{QN_LX_ADD, "+"}, {QN_LX_SUB, "-"}, {QN_LX_MUL, "*"}, {QN_LX_DIV, "/"}, {QN_LX_AND, "&"},
               {QN_LX_OR, "|"},  {QN_LX_XOR, "^"}, {QN_LX_LT, "<"},  {QN_LX_LE, "<="}, {QN_LX_EQ, "=="}};
  const char *function = function_of(ins->op, kind);
  if (function) {
    put_operand_call(out, function, ins, qn_lop_info_of(ins->op)->operands);
    return;
  }
  for (size_t i = 0; i < QN_COUNT(infix); i++)
    if (infix[i].op == ins->op) qn_buf_printf(out, "v%d %s v%d", ins->a, infix[i].text, ins->b);
  if (ins->op == QN_LX_SELECT) qn_buf_printf(out, "v%d ? v%d : v%d", ins->a, ins->b, ins->c);
}

static value_kind kind_of(const qn_math_ins *ins, const value_kind *kinds) {
  switch (ins->op) {
    case QN_LX_VAR:
    case QN_LX_FLOAT:
    case QN_LX_TO_F32:
    case QN_LX_AS_F32: return IS_FLOAT;
    case QN_LX_INT:
    case QN_LX_TO_I32:
    case QN_LX_AS_I32: return IS_INT;
    case QN_LX_LT:
    case QN_LX_LE:
    case QN_LX_EQ: return IS_BOOL;
    case QN_LX_SELECT: return kinds[ins->b];
    default: return kinds[ins->a];
  }
}

static void put_function(qn_buf *out, const qn_math_fn *fn) {
  enum { MAX_LENGTH = 256 };
  static const char *const types[] = {"float", "int", "bool"};
  value_kind kinds[MAX_LENGTH];
  assert(fn->count <= MAX_LENGTH && fn->code[0].op == QN_LX_VAR);
  kinds[0] = IS_FLOAT;
  qn_buf_printf(out, "static inline float qn_%s(float v0) {\n", qn_lop_info_of(fn->op)->text);
  for (size_t i = 1; i < fn->count; i++) {
    const qn_math_ins *ins = &fn->code[i];
    kinds[i] = kind_of(ins, kinds);
    qn_buf_printf(out, "  %s v%zu = ", types[kinds[i]], i);
    if (ins->op == QN_LX_FLOAT) {
      qn_buf_printf(out, "%af", (double)ins->float_value);
    } else if (ins->op == QN_LX_INT) {
      qn_buf_printf(out, "%d", ins->int_value);
    } else {
      put_instruction(out, ins, kinds[ins->op == QN_LX_SELECT ? ins->b : ins->a]);
    }
    qn_buf_puts(out, ";\n");
  }
  qn_buf_printf(out, "  return v%zu;\n}\n", fn->count - 1);
}

void qn_cuda_put_math(qn_lop op, qn_buf *out) {
  const qn_math_fn *fn = qn_math_fn_of(op);
  if (fn) put_function(out, fn);
}
