// Code generation for the CPU against the interpreter, bit for bit: every operator of loop.def at several widths, all
// memory forms, for each x86-64 level that this machine runs, from the linked image and from the JIT.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "codegen/codegen.h"
#include "codegen/cpu/host.h"
#include "ir/loop_interp.h"
#include "ir/math.h"
#include "tests/support/test.h"

static const char *const targets[] = {
    "x86-64-v2", "x86-64-v3",       "x86-64-v3+avxvnni",    "x86-64-v4", "x86-64-v4+avx512vnni",
    "aarch64",   "aarch64+dotprod", "aarch64+dotprod+i8mm", "host"};

// ---- kernels from text, compiled and run ----------------------------------------------------------------------

typedef struct compiled {
  qn_arena arena;
  qn_lkernel **kernels;
  size_t count;
  qn_target target;
  qn_jit *jit;  // or
  uint8_t *image;
  size_t image_size;
  uint64_t *offsets;  // arena
} compiled;

static void parse_kernels(const char *text, compiled *c) {
  qn_diag diag = {0};
  qn_arena_init(&c->arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_lkernels_parse("test", qn_str_from(text), &c->arena, &c->kernels, &c->count, &diag));
  for (size_t i = 0; i < c->count; i++) qn_assert_ok(&diag, qn_lkernel_verify(c->kernels[i], &diag));
}

static bool runs_here(const char *name, qn_target *out) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_target_parse(name, out, &diag));
  return qn_host_runs(out, NULL, 0);
}

static void map_image(const qn_code *code, compiled *c) {
  c->image_size = code->image_size;
  c->image = mmap(NULL, c->image_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert(c->image != MAP_FAILED);
  memcpy(c->image, code->image, code->image_size);
  ck_assert_int_eq(mprotect(c->image, c->image_size, PROT_READ | PROT_EXEC), 0);
  c->offsets = QN_ARENA_ARRAY(&c->arena, code->kernel_count, uint64_t);
  memcpy(c->offsets, code->offsets, code->kernel_count * sizeof(uint64_t));
}

// Compiles c->kernels for c->target, to an image or for the JIT.
static void compile(compiled *c, bool jit, int threads) {
  qn_diag diag = {0};
  qn_codegen_options options = {.target = &c->target, .threads = threads};
  const qn_lkernel *const *kernels = (const qn_lkernel *const *)c->kernels;
  if (jit) {
    qn_assert_ok(&diag, qn_jit_create(kernels, c->count, &options, qn_allocator_default(), &c->jit, &diag));
    return;
  }
  qn_code code;
  qn_assert_ok(&diag, qn_cpu_compile(kernels, c->count, &options, qn_allocator_default(), &code, &diag));
  map_image(&code, c);
  qn_code_deinit(&code);
}

static qn_kernel_fn function_of(const compiled *c, size_t index) {
  if (c->jit) return qn_jit_kernel(c->jit, index);
  qn_kernel_fn fn;
  uint8_t *address = c->image + c->offsets[index];
  memcpy(&fn, &address, sizeof fn);
  return fn;
}

static void release_code(compiled *c) {
  qn_jit_destroy(c->jit);
  if (c->image) munmap(c->image, c->image_size);
  c->jit = NULL;
  c->image = NULL;
}

static void release(compiled *c) {
  release_code(c);
  qn_arena_deinit(&c->arena);
}

// ---- data -----------------------------------------------------------------------------------------------------

enum { COUNT = 768, WIDTHS = 5, MAX_PARAMS = 12 };
static const int widths[WIDTHS] = {1, 3, 8, 16, 32};

typedef union word {
  float f;
  int32_t i;
  uint32_t u;
} word;

static qn_test_random random_state = {20250711};

// Floats of all magnitudes and the special ones; a third are plain numbers.
static float random_float(void) {
  static const float specials[] = {
      0.0f, -0.0f, 1.0f, -1.0f, INFINITY, -INFINITY, NAN,      0x1p-149f, -0x1p-149f, 0x1p-126f,  0x1.fffffep127f,
      0.5f, 1.5f,  2.5f, -2.5f, 65504.0f, 65519.9f,  65520.0f, 0x1p-24f,  0x1p-25f,   0x1.8p-25f, 8388609.0f};
  uint64_t bits = qn_test_random_u64(&random_state);
  word w = {.u = (uint32_t)(bits >> 32)};
  switch (bits % 6) {
    case 0: return specials[(bits >> 8) % QN_COUNT(specials)];
    case 1: return w.f;
    case 2: return (float)(w.i >> 8) * 0x1p-16f;
    case 3: return (float)(w.i >> 16) + 0.5f;
    default: return (float)qn_test_random_unit(&random_state) * 20.0f - 10.0f;
  }
}

static int32_t random_int(void) {
  static const int32_t specials[] = {0,
                                     1,
                                     -1,
                                     INT32_MIN,
                                     INT32_MAX,
                                     255,
                                     -128,
                                     (int32_t)0x80808080,
                                     (int32_t)0xFFFFFFFF,
                                     0x7F7F7F7F,
                                     (int32_t)0xFF80FF80,
                                     0x00FF00FF,
                                     (int32_t)0x80FF7F01};
  uint64_t bits = qn_test_random_u64(&random_state);
  if (bits % 3 == 0) return specials[(bits >> 8) % QN_COUNT(specials)];
  return bits % 3 == 1 ? (int32_t)(bits >> 32) : (int32_t)((bits >> 32) % 2001) - 1000;
}

// Parameters of operator kernels: a b c floats, i j k integers, p positive, r integers as floats, s shift distances.
static word inputs[9][COUNT];

static void fill_inputs(void) {
  for (int e = 0; e < COUNT; e++) {
    for (int b = 0; b < 3; b++) inputs[b][e].f = random_float();
    for (int b = 3; b < 6; b++) inputs[b][e].i = random_int();
    inputs[6][e].i = 1 + (int32_t)(qn_test_random_u64(&random_state) % (e % 2 ? 10 : INT32_MAX));
    inputs[7][e].f = (float)((int32_t)qn_test_random_u64(&random_state) % 1000000) * 0.5f;
    inputs[8][e].i = (int32_t)(qn_test_random_u64(&random_state) % 32);
  }
}

static bool same_word(word got, word want, bool is_float) {
  return got.u == want.u || (is_float && isnan(got.f) && isnan(want.f));
}

// ---- every operator -------------------------------------------------------------------------------------------

// `$a` is a[...] at the kernel's width, `%a` a scalar beside it, `$l` the element's number as an index.
static const struct {
  const char *name;
  char out;  // 'f' or 'i'
  const char *expression;
} operators[] = {
    {"int", 'i', "$i + 7i32"},
    {"float", 'f', "$a + 0.1"},
    {"sym", 'i', "$i + i32(T)"},
    {"lane", 'i', "i32($l)"},
    {"add_f", 'f', "$a + $b"},
    {"add_f_scalar", 'f', "$a + %b"},
    {"add_i", 'i', "$i + $j"},
    {"add_x", 'i', "i32((index($i) + index($j)) % 65536)"},
    {"sub_f", 'f', "%a - $b"},
    {"sub_i", 'i', "$i - $j"},
    {"sub_x", 'i', "i32((index($i) - index($j)) % 65536)"},
    {"mul_f", 'f', "$a*$b"},
    {"mul_i", 'i', "$i*$j"},
    {"mul_x", 'i', "i32(index($i)*index($j) % 65536)"},
    {"div_f", 'f', "$a / $b"},
    {"div_i", 'i', "$i / $p"},
    {"div_i_7", 'i', "$i / 7i32"},
    {"div_i_16", 'i', "$i / 16i32"},
    {"div_x", 'i', "i32(index($i) / index($p))"},
    {"div_x_3", 'i', "i32($l / 3)"},
    {"div_x_8", 'i', "i32(index($i) / 8)"},
    {"mod_i", 'i', "$i % $p"},
    {"mod_i_7", 'i', "$i % 7i32"},
    {"mod_i_16", 'i', "$i % 16i32"},
    {"mod_x", 'i', "i32(index($i) % index(%p))"},
    {"mod_x_5", 'i', "i32($l % 5)"},
    {"mod_x_1", 'i', "i32(index($i) % 1)"},
    {"min_f", 'f', "min($a, $b)"},
    {"min_i", 'i', "min($i, %j)"},
    {"min_x", 'i', "i32(min(index($i), index($j)))"},
    {"max_f", 'f', "max($a, $b)"},
    {"max_i", 'i', "max($i, $j)"},
    {"max_x", 'i', "i32(max(index($i), index($j)))"},
    {"neg_f", 'i', "as_i32(neg($a))"},
    {"neg_i", 'i', "neg($i)"},
    {"neg_x", 'i', "i32(neg(index($i)) % 65536)"},
    {"abs", 'i', "as_i32(abs($a))"},
    {"sqrt", 'f', "sqrt(abs($a))"},
    {"round", 'f', "round($a)"},
    {"fma", 'f', "fma($a, $b, $c)"},
    {"fma_scalar", 'f', "fma($a, %b, neg($c))"},
    {"fma_cancel", 'f', "fma($a, $b, neg($a*$b))"},
    {"no_contraction", 'f', "$a*$b + $c"},
    {"and", 'i', "and($i, $j)"},
    {"or", 'i', "or($i, %j)"},
    {"xor", 'i', "xor($i, $j)"},
    {"shl", 'i', "shl($i, $s)"},
    {"shr", 'i', "shr($i, $s)"},
    {"shr_scalar", 'i', "shr(%i, $s)"},
    {"lt_f", 'i', "select(lt($a, $b), 1i32, 0i32)"},
    {"lt_i", 'i', "select(lt($i, %j), $i, $j)"},
    {"lt_x", 'i', "select(lt(index($i), index($j)), $k, 0i32)"},
    {"le_f", 'i', "select(le($a, $b), 1i32, 0i32)"},
    {"le_i", 'i', "select(le($i, $j), 1i32, 0i32)"},
    {"eq_f", 'i', "select(eq($a, $b), 1i32, 0i32)"},
    {"eq_i", 'i', "select(eq($i, $j), 1i32, 0i32)"},
    {"pred_and", 'f', "select(and(lt($a, $b), le($i, $j)), $a, $b)"},
    {"pred_or", 'f', "select(or(lt($a, $b), eq($i, $j)), $a, %c)"},
    {"select_scalar", 'f', "select(lt(%a, %b), $a, $b)"},
    {"select_x", 'i', "i32(select(lt($a, $b), index($i), index($j)))"},
    {"to_f32", 'f', "f32($i)"},
    {"to_i32", 'i', "i32(round($r))"},
    {"as_f32", 'f', "as_f32($i)"},
    {"as_i32", 'i', "as_i32($a)"},
    {"dot4", 'i', "dot4($i, $j, $k)"},
    {"dot4_scalar", 'i', "dot4($i, $j, %k)"},
    {"dot4_scalars", 'i', "dot4(%i, $j, %k)"},
    {"dot4_seven_bits", 'i', "dot4($i, and($j, 2139062143i32), $k)"},
    {"dot4_nibbles", 'i', "dot4(%i, and(shr($j, 4i32), 252645135i32), $k)"},
    {"dot4_self", 'i', "dot4(dot4($i, $j, $k), $k, $j)"},
    {"lut16", 'i', "lut16($i, \"0118ff2d7f80a3c4e9f00102a0b1c2d3\")"},
    {"lut16_scalar", 'i', "lut16(%j, \"00112233445566778899aabbccddeeff\") + $i"},
    {"lut16_nibbles", 'i', "lut16(and(shr($j, 4i32), 252645135i32), \"0c0d0e0f101214180c0b0a0908060400\")"},
    {"dot4_lut16", 'i', "dot4($i, lut16(and($j, 252645135i32), \"0c0d0e0f101214180c0b0a0908060400\"), $k)"},
    {"dot4s", 'i', "dot4s($i, $j, and($k, 2139062143i32))"},
    {"dot4s_negative", 'i', "dot4s($i, $j, or($k, 16843009i32))"},
    {"dot4s_scalar", 'i', "dot4s(%i, $j, and(%k, 2139062143i32))"},
    {"dot2_nibbles", 'i', "dot2($i, and($j, 252645135i32), $k)"},
    {"dot2_scalar", 'i', "dot2(dot2($i, and(%i, 252645135i32), %k), and($j, 50529027i32), $k)"},
    {"fold2", 'i', "fold2($i) + fold2(%j)"},
    {"unbias", 'i', "unbias($i, 128i32) + unbias(%j, 8i32)"},
    {"exp", 'f', "exp($a)"},
    {"sin", 'f', "sin($a)"},
    {"cos", 'f', "cos($a)"},
    {"tanh", 'f', "tanh($a)"},
    {"erf", 'f', "erf($a)"},
    {"shared", 'f', "exp($a - max($a, $b)) + exp($b - max($a, $b))"},
};

static void write_expression(const char *expression, int width, qn_buf *out) {
  for (const char *at = expression; *at; at++) {
    bool wide = at[0] == '$', scalar = at[0] == '%' && at[1] >= 'a' && at[1] <= 'z' && at[1] != 'l';
    if (!wide && !scalar) {
      qn_buf_putc(out, *at);
    } else if (at[1] == 'l') {
      qn_buf_printf(out, width == 1 ? "v1" : "(v%d*%d + lane(%d))", width, width, width);
    } else if (width == 1 || scalar) {
      qn_buf_printf(out, "%c[v%d]", at[1], width);
    } else {
      qn_buf_printf(out, "%c[v%d*%d : %d]", at[1], width, width, width);
    }
    if (wide || scalar) at++;
  }
}

static void write_operator_kernel(size_t index, qn_buf *out) {
  static const char *const params[] = {"a : f32", "b : f32", "c : f32", "i : i32", "j : i32",
                                       "k : i32", "p : i32", "r : f32", "s : i32"};
  qn_buf_printf(out, "kernel \"%s\" {\n", operators[index].name);
  for (size_t i = 0; i < QN_COUNT(params); i++) qn_buf_printf(out, "  param %s[%d]\n", params[i], COUNT);
  qn_buf_printf(out, "  param out1 : %s[%d] out\n", operators[index].out == 'f' ? "f32" : "i32", COUNT * WIDTHS);
  for (int w = 0; w < WIDTHS; w++) {
    qn_buf_printf(out, "  for v%d in 0..%d data {\n    out1[v%d*%d + %d", widths[w], COUNT / widths[w], widths[w],
                  widths[w], w * COUNT);
    if (widths[w] > 1) qn_buf_printf(out, " : %d", widths[w]);
    qn_buf_puts(out, "] = ");
    write_expression(operators[index].expression, widths[w], out);
    qn_buf_puts(out, "\n  }\n");
  }
  qn_buf_puts(out, "}\n");
}

static const int64_t symbols[QN_SYM_COUNT] = {
    [QN_SYM_T] = 5, [QN_SYM_R] = 3, [QN_SYM_P] = 7, [QN_SYM_B] = 2, [QN_SYM_G] = 11};

static word want[QN_COUNT(operators)][COUNT * WIDTHS];

static void check_operators(const compiled *c, const char *how) {
  static word got[COUNT * WIDTHS];
  for (size_t i = 0; i < c->count; i++) {
    void *buffers[10] = {inputs[0], inputs[1], inputs[2], inputs[3], inputs[4],
                         inputs[5], inputs[6], inputs[7], inputs[8], got};
    memset(got, 0xA5, sizeof got);
    function_of(c, i)(buffers, symbols, 0, INT64_MAX);
    for (int e = 0; e < COUNT * WIDTHS; e++)
      qn_check(same_word(got[e], want[i][e], operators[i].out == 'f'),
               "%s, %s, %s, width %d, element %d: got %a (%08x), want %a (%08x)", c->target.name, how,
               operators[i].name, widths[e / COUNT], e % COUNT, (double)got[e].f, got[e].u, (double)want[i][e].f,
               want[i][e].u);
  }
}

static void mark_used(const qn_lexpr *e, bool *used) {
  used[e->op] = true;
  for (int i = 0; i < 3; i++)
    if (e->operands[i]) mark_used(e->operands[i], used);
}

// The cases cover loop.def, which grows.
static void check_all_operators_are_used(const compiled *c) {
  bool used[QN_LX_COUNT] = {false};
  for (size_t i = 0; i < c->count; i++)
    for (const qn_lstmt *s = c->kernels[i]->body.first; s; s = s->next)
      mark_used(s->u.loop.body.first->u.store.value, used);
  for (int op = 0; op < QN_LX_COUNT; op++)
    ck_assert_msg(used[op], "operator %s has no case in this test", qn_lop_info_of((qn_lop)op)->text);
}

static void parse_operator_kernels(compiled *c) {
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(operators); i++) write_operator_kernel(i, &text);
  parse_kernels(qn_buf_text(&text), c);
  qn_buf_deinit(&text);
}

START_TEST(operators_match_the_interpreter) {
  compiled c = {0};
  qn_diag diag = {0};
  parse_operator_kernels(&c);
  check_all_operators_are_used(&c);
  fill_inputs();
  for (size_t i = 0; i < c.count; i++) {
    qn_linterp_buffer buffers[10];
    for (int b = 0; b < 9; b++) buffers[b] = (qn_linterp_buffer){inputs[b], sizeof inputs[b]};
    buffers[9] = (qn_linterp_buffer){want[i], sizeof want[i]};
    qn_assert_ok(&diag, qn_lkernel_interpret(c.kernels[i], buffers, symbols, 0, INT64_MAX, qn_test_allocator(), &diag));
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    bool runs = runs_here(targets[t], &c.target);
    compile(&c, false, 2);
    if (runs) check_operators(&c, "image");
    release_code(&c);
    if (!runs || strcmp(targets[t], "host") != 0) continue;
    compile(&c, true, 1);
    check_operators(&c, "jit");
    release_code(&c);
  }
  release(&c);
}
END_TEST

typedef struct forbidden {
  const char *target;
  const char *mnemonics[12];
} forbidden;

static void look_for_forbidden(void *context, const char *stage, const char *text, size_t length) {
  const forbidden *f = context;
  (void)length;
  if (strcmp(stage, "asm") != 0) return;
  for (int i = 0; f->mnemonics[i]; i++) {
    const char *at = strstr(text, f->mnemonics[i]);
    qn_check(at == NULL, "%s: found '%.60s'", f->target, at);
  }
}

// What LLVM's CPU of that name has and our list does not name must not be used: loaders check the list.
START_TEST(code_uses_only_what_it_requires) {
  static const forbidden cases[] = {
      {"x86-64-v2", {"\tv", "ymm", "\tpopcnt", "\tmulx"}},
      {"x86-64-v3", {"zmm", "vpdp", "\tpopcnt", "\tandn", "\tbextr", "\tbls", "\ttzcnt", "\tlzcnt", "\tmovbe"}},
      {"x86-64-v3+avxvnni", {"zmm", "\tpopcnt", "\tandn", "\tbextr", "\tbls", "\ttzcnt", "\tlzcnt", "\tmovbe"}},
      {"x86-64-v4",
       {"vpdp", "vplzcnt", "vpconflict", "vpopcnt", "vpermb", "vpermi2b", "vpshld", "\tpopcnt", "\tandn", "\ttzcnt",
        "\tlzcnt"}},
      {"aarch64", {"dot\t", "mmla"}},
      {"aarch64+dotprod", {"usdot\t", "mmla"}},
  };
  compiled c = {0};
  parse_operator_kernels(&c);
  for (size_t i = 0; i < QN_COUNT(cases); i += qn_test_stride(1, 4)) {  // it is LLVM's code that is looked at
    qn_diag diag = {0};
    qn_code code;
    forbidden f = cases[i];
    qn_assert_ok(&diag, qn_target_parse(f.target, &c.target, &diag));
    qn_codegen_options options = {.target = &c.target, .threads = 2, .dump = look_for_forbidden, .dump_context = &f};
    qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_allocator_default(),
                                       &code, &diag));
    qn_code_deinit(&code);
  }
  release(&c);
}
END_TEST

// ---- memory, loops and ranges ---------------------------------------------------------------------------------

// Buffers of 64 KiB each: u bytes of any value, x indices below 1024 as i32, y and z written.
static const char *const memory_kernels =
    "kernel \"views\" {\n"  // every element type, scalar and vector, and one buffer seen as several
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..512 data {\n"
    "    y[i*16 : 16] = u.f16[i*16 : 16]\n"
    "    y[i*3 + 8192 : 3] = u.bf16[i*5 : 3]\n"
    "    y[i + 9728] = u.f16[i*3 + 1] + u.bf16[i*7]\n"
    "    y.i32[i*8 + 10240 : 8] = u[i*9 : 8] - u.i8[i*9 : 8]\n"
    "    y.i32[i + 14336] = u[i*9]*u.i8[i*9] + u.i32[i*3]\n"
    "    z.f16[i*8 : 8] = u.f32[i*8 : 8]\n"
    "    z.bf16[i*3 + 4096 : 3] = u.f32[i*5 : 3]\n"
    "    z.f16[i + 8192] = u.f32[i]\n"
    "    z.bf16[i + 8704] = u.f32[i]\n"
    "    z.i8[i*16 + 20480 : 16] = u.i32[i*16 : 16]\n"
    "    z[i*3 + 32768 : 3] = u.i32[i*3 : 3]\n"
    "    z.i32[i*4 + 10240 : 4] = u.i32[i*8 : 4]\n"
    "    z.f32[i + 12800 : 1] = u.f32[i]\n"
    "  }\n}\n"
    "kernel \"gather_scatter\" {\n"
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..64 data {\n"
    "    y[i*16 : 16] = u.f32[index(x[i*16 : 16])]\n"
    "    y[i*8 + 1024 : 8] = u.f16[i + lane(8)*33]\n"
    "    y.i32[i*3 + 1536 : 3] = u[index(x[i*3 : 3])] + u.i8[index(x[i*3 : 3])*2 + 1]\n"
    "    y[lane(16)*64 + i + 2048] = u.f32[i*16 : 16]\n"
    "    y.i32[lane(8)*64 + i + 4096] = x[i]\n"
    "    z.f16[index(x[i*16 : 16])] = f32(x[i*16 : 16])\n"
    "    z[lane(3)*64 + i + 4096] = 77i32\n"
    "  }\n}\n"
    "kernel \"locals\" {\n"
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..T data {\n"
    "    local sums : f32[16]\n    local table : i32[100]\n    local halves : f16[32]\n"
    "    sums[0 : 16] = 0.0\n"
    "    for f in 0..100 data {\n      table[f] = x[i*100 + f]\n    }\n"
    "    halves[0 : 32] = f32(x[i : 32])*0.3\n"
    "    for j in 0..i*3 + 1 reduce {\n"
    "      prefetch u[i*4096 + j*64 + 1000000]\n"
    "      prefetch far u[i*4096 + j*64 + 2000000]\n"
    "      sums[0 : 16] = fma(f32(table[j*2 : 16]), 0.5, sums[0 : 16])\n"
    "      sums[j % 16] = sums[j % 16] + halves[(j*5) % 32]\n"
    "    }\n"
    "    for e in i..i reduce {\n      sums[0] = 99.0\n    }\n"
    "    for d in 3..1 reduce {\n      sums[0] = 98.0\n    }\n"
    "    y[i*16 : 16] = sums[0 : 16]\n"
    "    y[(i / 2*T + i % 2)*16 + 1024 : 16] = sums[i]\n"
    "  }\n}\n"
    "kernel \"crowded\" {\n"  // sums in f32 around integer sums that take the registers
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..T data {\n"
    "    local acc : f32[64]\n"
    "    acc[0 : 32] = 0.0\n"
    "    acc[32 : 32] = 1.0\n"
    "    for k in 0..5 reduce {\n"
    "      local sum : i32[64]\n"
    "      sum[0 : 32] = unbias(x[i + k], 3i32)\n"
    "      sum[32 : 32] = x[i + k]\n"
    "      for g in 0..3 reduce {\n"
    "        sum[0 : 32] = sum[0 : 32] + u[k*32 + g*7 : 32]*x[i + g]\n"
    "        sum[32 : 32] = sum[32 : 32] + u[k*32 + g*5 : 32]*x[i + g + 1]\n"
    "      }\n"
    "      acc[0 : 32] = fma(f32(sum[0 : 32]), 0.25, acc[0 : 32])\n"
    "      acc[32 : 32] = fma(f32(sum[32 : 32]), f32(x[k]), acc[32 : 32])\n"
    "      acc[k] = acc[k] + acc[k + 40]\n"
    "    }\n"
    "    y[i*64 : 32] = acc[0 : 32]\n"
    "    y[i*64 + 32 : 32] = acc[32 : 32]\n"
    "  }\n}\n"
    "kernel \"in_place\" {\n"
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..1000 data {\n"
    "    y[i + 1] = f32(x[i])\n"
    "    z.f32[i*16 : 16] = y[i : 16]\n"
    "  }\n}\n"
    "kernel \"parallel\" {\n"
    "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
    "  for i in 0..T*20 data parallel {\n"
    "    y[i*8 : 8] = u.f16[i*8 : 8]\n"
    "  }\n}\n";

enum { MEMORY_BYTES = 65536 };

typedef struct memory {
  uint8_t u[MEMORY_BYTES];
  int32_t x[1024];
  uint8_t y[MEMORY_BYTES], z[MEMORY_BYTES];
} memory;

static void fill_memory(memory *m) {
  for (int i = 0; i < MEMORY_BYTES; i++) m->u[i] = (uint8_t)qn_test_random_u64(&random_state);
  for (int i = 0; i < 1024; i++) m->x[i] = (int32_t)(qn_test_random_u64(&random_state) % 1024);
  for (uint32_t i = 0; i < 4096; i++) {  // floats near what 16 bits can hold
    word w = {.f = random_float()};
    memcpy(m->u + 4 * i, &w, 4);
  }
  memset(m->y, 0x11, sizeof m->y);
  memset(m->z, 0x22, sizeof m->z);
}

static bool is_nan16(uint16_t bits, bool bf16) { return bf16 ? (bits & 0x7FFF) > 0x7F80 : (bits & 0x7FFF) > 0x7C00; }

// Equal bytes, or NaN of some kind in both: targets may give NaN other bits.
static bool same_at(const uint8_t *got, const uint8_t *wanted, int at) {
  word a, b;
  uint16_t c, d;
  if (got[at] == wanted[at]) return true;
  memcpy(&a, got + (at & ~3), 4);
  memcpy(&b, wanted + (at & ~3), 4);
  memcpy(&c, got + (at & ~1), 2);
  memcpy(&d, wanted + (at & ~1), 2);
  return (isnan(a.f) && isnan(b.f)) || (is_nan16(c, false) && is_nan16(d, false)) ||
         (is_nan16(c, true) && is_nan16(d, true));
}

static void check_memory(const compiled *c, const char *how, const memory *before, int64_t begin, int64_t end) {
  static memory got, wanted;
  qn_diag diag = {0};
  for (size_t i = 0; i < c->count; i++) {
    got = wanted = *before;
    qn_linterp_buffer plain[4] = {
        {wanted.u, MEMORY_BYTES}, {wanted.x, sizeof wanted.x}, {wanted.y, MEMORY_BYTES}, {wanted.z, MEMORY_BYTES}};
    qn_assert_ok(&diag, qn_lkernel_interpret(c->kernels[i], plain, symbols, begin, end, qn_test_allocator(), &diag));
    void *buffers[4] = {got.u, got.x, got.y, got.z};
    function_of(c, i)(buffers, symbols, begin, end);
    for (int at = 0; at < MEMORY_BYTES; at++) {
      qn_check(same_at(got.y, wanted.y, at), "%s, %s, %s, y byte %d: got %02x, want %02x", c->target.name, how,
               c->kernels[i]->name, at, got.y[at], wanted.y[at]);
      qn_check(same_at(got.z, wanted.z, at), "%s, %s, %s, z byte %d: got %02x, want %02x", c->target.name, how,
               c->kernels[i]->name, at, got.z[at], wanted.z[at]);
    }
  }
}

START_TEST(memory_matches_the_interpreter) {
  static memory before;
  compiled c = {0};
  parse_kernels(memory_kernels, &c);
  fill_memory(&before);
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    bool runs = runs_here(targets[t], &c.target);
    compile(&c, false, 1);
    if (runs) {
      check_memory(&c, "image", &before, 0, INT64_MAX);
      check_memory(&c, "image", &before, 13, 57);
      check_memory(&c, "image", &before, 90, 1000);
      check_memory(&c, "image", &before, 200, 300);
      check_memory(&c, "image", &before, 50, 50);
    }
    release_code(&c);
  }
  runs_here("host", &c.target);
  compile(&c, true, 2);
  check_memory(&c, "jit", &before, 0, INT64_MAX);
  release(&c);
}
END_TEST

START_TEST(half_precision_is_exact) {
  static const char *const text =
      "kernel \"widen\" {\n  param h : f16[65536]\n  param y : f32[65536] out\n"
      "  for i in 0..4096 data {\n    y[i*16 : 16] = h[i*16 : 16]\n  }\n}\n"
      "kernel \"narrow\" {\n  param x : f32[65536]\n  param h : f16[65536] out\n"
      "  for i in 0..4096 data {\n    h[i*16 : 16] = x[i*16 : 16]\n  }\n}\n"
      "kernel \"narrow_bf16\" {\n  param x : f32[65536]\n  param h : bf16[65536] out\n"
      "  for i in 0..4096 data {\n    h[i*16 : 16] = x[i*16 : 16]\n  }\n}\n";
  static uint16_t halves[65536], narrowed[65536];
  static word wide[65536], near[65536];
  compiled c = {0};
  parse_kernels(text, &c);
  for (uint32_t i = 0; i < 65536; i++) {
    halves[i] = (uint16_t)i;  // and floats beside each half: on it, just off it, at the middle to the next
    near[i].f = qn_f16_to_f32((uint16_t)i);
    near[i].u += (uint32_t[]){0, 1, 0x1000, 0xFFF, 0x1001, (uint32_t)-1}[i % 6];
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    if (!runs_here(targets[t], &c.target)) continue;
    compile(&c, false, 1);
    function_of(&c, 0)((void *[]){halves, wide}, symbols, 0, 0);
    for (uint32_t i = 0; i < 65536; i++) {
      word expected = {.f = qn_f16_to_f32((uint16_t)i)};
      qn_check(same_word(wide[i], expected, true), "%s: half %04x gives %a", c.target.name, i, (double)wide[i].f);
    }
    function_of(&c, 1)((void *[]){near, narrowed}, symbols, 0, 0);
    for (uint32_t i = 0; i < 65536; i++) {
      uint16_t expected = qn_f32_to_f16(near[i].f);
      qn_check(narrowed[i] == expected || (is_nan16(narrowed[i], false) && is_nan16(expected, false)),
               "%s: %a gives half %04x, want %04x", c.target.name, (double)near[i].f, narrowed[i], expected);
    }
    function_of(&c, 2)((void *[]){near, narrowed}, symbols, 0, 0);
    for (uint32_t i = 0; i < 65536; i++) {
      uint16_t expected = qn_f32_to_bf16(near[i].f);
      qn_check(narrowed[i] == expected || (is_nan16(narrowed[i], true) && is_nan16(expected, true)),
               "%s: %a gives bf16 %04x, want %04x", c.target.name, (double)near[i].f, narrowed[i], expected);
    }
    release_code(&c);
  }
  release(&c);
}
END_TEST

START_TEST(math_functions_match_their_definition) {
  static const qn_lop ops[] = {QN_LX_EXP, QN_LX_SIN, QN_LX_COS, QN_LX_TANH, QN_LX_ERF};
  static float x[4096], y[4096];
  compiled c = {0};
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  for (size_t i = 0; i < QN_COUNT(ops); i++)
    qn_buf_printf(&text,
                  "kernel \"k%zu\" {\n  param x : f32[4096]\n  param y : f32[4096] out\n"
                  "  for i in 0..256 data {\n    y[i*16 : 16] = %s(x[i*16 : 16])\n  }\n}\n",
                  i, qn_lop_info_of(ops[i])->text);
  parse_kernels(qn_buf_text(&text), &c);
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    if (!runs_here(targets[t], &c.target)) continue;
    compile(&c, false, 1);
    for (size_t i = 0; i < QN_COUNT(ops); i++) {
      const qn_math_fn *fn = qn_math_fn_of(ops[i]);
      for (int e = 0; e < 4096; e++)
        x[e] = e % 8 == 0 ? random_float()
                          : fn->range_lo + (float)qn_test_random_unit(&random_state) * (fn->range_hi - fn->range_lo);
      function_of(&c, i)((void *[]){x, y}, symbols, 0, 0);
      for (int e = 0; e < 4096; e++) {
        word got = {.f = y[e]}, expected = {.f = qn_math_eval(fn, x[e])};
        qn_check(same_word(got, expected, true), "%s: %s(%a): got %a, want %a", c.target.name,
                 qn_lop_info_of(ops[i])->text, (double)x[e], (double)got.f, (double)expected.f);
      }
    }
    release_code(&c);
  }
  qn_buf_deinit(&text);
  release(&c);
}
END_TEST

// ---- the interface --------------------------------------------------------------------------------------------

static const char *const two_kernels =
    "kernel \"twice\" {\n  param y : f32[16] out\n  y[0 : 16] = y[0 : 16]*2.0\n}\n"
    "kernel \"twice\" {\n  param y : f32[16] out\n  y[0 : 16] = y[0 : 16]*3.0\n}\n"
    "kernel \"nothing\" {\n  param y : f32[16] out\n}\n";

START_TEST(kernels_may_share_a_name) {
  compiled c = {0};
  parse_kernels(two_kernels, &c);
  runs_here("host", &c.target);
  for (int jit = 0; jit < 2; jit++)
    for (int threads = 0; threads < 4; threads++) {
      float y[16] = {1.0f, 2.0f};
      compile(&c, jit == 1, threads);
      for (size_t i = 0; i < 3; i++) function_of(&c, i)((void *[]){y}, symbols, 0, 0);
      ck_assert(y[0] == 6.0f && y[1] == 12.0f && y[2] == 0.0f);
      release_code(&c);
    }
  release(&c);
}
END_TEST

typedef struct stages {
  int mlir, llvm, assembly;
  bool failed;
} stages;

static void count_stage(void *context, const char *stage, const char *text, size_t length) {
  stages *s = context;
  s->mlir += strcmp(stage, "mlir") == 0 && strstr(text, "llvm.func @twice") != NULL;
  s->llvm += strcmp(stage, "llvm") == 0 && strstr(text, "define void @twice") != NULL;
  s->assembly += strcmp(stage, "asm") == 0 && strstr(text, "twice:") != NULL;
  s->failed |= strlen(text) != length;
}

START_TEST(stages_are_dumped) {
  compiled c = {0};
  stages seen = {0};
  qn_diag diag = {0};
  qn_code code;
  parse_kernels(two_kernels, &c);
  runs_here("host", &c.target);
  qn_codegen_options options = {.target = &c.target, .threads = 1, .dump = count_stage, .dump_context = &seen};
  qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_test_allocator(),
                                     &code, &diag));
  ck_assert(seen.mlir == 1 && seen.llvm == 1 && seen.assembly == 1 && !seen.failed);
  qn_code_deinit(&code);
  release(&c);
}
END_TEST

// Sums of `tokens` tokens of 16 lanes in f32, around as many integer sums.
static void write_tile(int tokens, qn_buf *out) {
  qn_buf_printf(out, "kernel \"tile\" {\n  param w : i32[4096]\n  param x : i32[4096]\n  param y : f32[%d] out\n",
                16 * tokens);
  qn_buf_printf(out, "  for n in 0..1 data {\n    local acc : f32[%d]\n", 16 * tokens);
  for (int t = 0; t < tokens; t++) qn_buf_printf(out, "    acc[%d : 16] = 0.0\n", 16 * t);
  qn_buf_printf(out, "    for k in 0..64 reduce {\n      local sum : i32[%d]\n", 16 * tokens);
  for (int t = 0; t < tokens; t++) qn_buf_printf(out, "      sum[%d : 16] = 0i32\n", 16 * t);
  for (int g = 0; g < 2 * tokens; g++)
    qn_buf_printf(out, "      sum[%d : 16] = dot4(sum[%d : 16], w[k*32 + %d : 16], x[k*16 + %d])\n", 16 * (g % tokens),
                  16 * (g % tokens), 16 * (g / tokens), g);
  for (int t = 0; t < tokens; t++)
    qn_buf_printf(out, "      acc[%d : 16] = fma(f32(sum[%d : 16]), 0.5, acc[%d : 16])\n", 16 * t, 16 * t, 16 * t);
  qn_buf_puts(out, "    }\n");
  for (int t = 0; t < tokens; t++) qn_buf_printf(out, "    y[%d : 16] = acc[%d : 16]\n", 16 * t, 16 * t);
  qn_buf_puts(out, "  }\n}\n");
}

// Lines of assembly with a multiply-add, and those among them that read memory.
typedef struct fma_lines {
  int all, of_memory;
} fma_lines;

static void count_fma(void *context, const char *stage, const char *text, size_t length) {
  fma_lines *lines = context;
  (void)length;
  if (strcmp(stage, "asm") != 0) return;
  for (const char *at = text; (at = strstr(at, "vfmadd")) != NULL;) {
    const char *end = strchr(at, '\n'), *bracket = strchr(at, '(');
    lines->all++;
    lines->of_memory += bracket && bracket < end;
    at = end;
  }
}

typedef struct prefetch_lines {
  const char *first, *second;  // what brings a line into the first cache, and into the second
  bool seen_first, seen_second;
} prefetch_lines;

static void find_prefetches(void *context, const char *stage, const char *text, size_t length) {
  prefetch_lines *lines = context;
  (void)length;
  if (strcmp(stage, "asm") != 0) return;
  lines->seen_first |= strstr(text, lines->first) != NULL;
  lines->seen_second |= strstr(text, lines->second) != NULL;
}

START_TEST(far_prefetches_are_for_the_second_cache) {
  static const char *const names[] = {"x86-64-v3", "aarch64"};
  static const prefetch_lines instructions[] = {{"prefetcht0", "prefetcht1", false, false},
                                                {"pldl1keep", "pldl2keep", false, false}};
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    compiled c = {0};
    prefetch_lines lines = instructions[i];
    qn_diag diag = {0};
    qn_code code;
    parse_kernels(memory_kernels, &c);
    qn_assert_ok(&diag, qn_target_parse(names[i], &c.target, &diag));
    qn_codegen_options options = {.target = &c.target, .threads = 1, .dump = find_prefetches, .dump_context = &lines};
    qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_allocator_default(),
                                       &code, &diag));
    qn_check(lines.seen_first && lines.seen_second, "%s: a prefetch is missing", names[i]);
    qn_code_deinit(&code);
    release(&c);
  }
}
END_TEST

// Where integer sums take the registers, sums in f32 are operands in memory.
START_TEST(crowded_sums_stay_in_memory) {
  for (int tokens = 1; tokens <= 4; tokens++) {
    compiled c = {0};
    fma_lines lines = {0, 0};
    qn_diag diag = {0};
    qn_code code;
    qn_buf text;
    qn_buf_init(&text, qn_test_allocator());
    write_tile(tokens, &text);
    parse_kernels(qn_buf_text(&text), &c);
    qn_assert_ok(&diag, qn_target_parse("x86-64-v3", &c.target, &diag));
    qn_codegen_options options = {.target = &c.target, .threads = 1, .dump = count_fma, .dump_context = &lines};
    qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_allocator_default(),
                                       &code, &diag));
    ck_assert_int_eq(lines.all, 2 * tokens);
    ck_assert_int_eq(lines.of_memory, tokens == 4 ? lines.all : 0);
    qn_code_deinit(&code);
    release(&c);
    qn_buf_deinit(&text);
  }
}
END_TEST

// Tiles that take turns (m) look at a local from outside of their loop as something unknown; behind the loop it is what it
// was, however many locals the loop has of its own.
START_TEST(held_locals_outlive_the_turns) {
  enum { LOCALS = 20 };
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_buf_puts(&text,
              "kernel \"turns\" {\n"
              "  param u : u8[65536]\n  param x : i32[1024]\n  param y : f32[16384] out\n  param z : u8[65536] out\n"
              "  for i in 0..T data {\n    local held : f32[64]\n"
              "    held[0 : 32] = f32(u[i*32 : 32])\n    held[32 : 32] = 2.0\n"
              "    for m in 0..2 data {\n      local sum : i32[64]\n"
              "      sum[0 : 32] = x[i + m]\n      sum[32 : 32] = u[i*7 : 32]\n"
              "      for g in 0..2 reduce {\n");
  for (int l = 0; l < LOCALS; l++) {
    qn_buf_printf(&text, "        local own%d : f32[64]\n        own%d[0 : 32] = f32(sum[32 : 32])\n", l, l);
    qn_buf_printf(&text, "        own%d[32 : 32] = %d.5\n", l, l);
    qn_buf_printf(&text, "        y[i*256 + m*64 + g*32 : 32] = own%d[0 : 32] + own%d[32 : 32]\n", l, l);
  }
  qn_buf_puts(&text,
              "      }\n      y[i*256 + m*32 + 128 : 32] = held[0 : 32] + f32(sum[0 : 32])\n    }\n"
              "    y[i*256 + 192 : 32] = held[0 : 32] + held[32 : 32]\n  }\n}\n");
  compiled c = {0};
  static memory before;
  fill_memory(&before);
  parse_kernels(qn_buf_text(&text), &c);
  if (runs_here("x86-64-v3", &c.target)) {
    compile(&c, true, 1);
    check_memory(&c, "turns", &before, 0, INT64_MAX);
    release_code(&c);
  }
  qn_code code;
  qn_diag diag = {0};
  qn_codegen_options options = {.target = &c.target, .threads = 1};
  qn_assert_ok(&diag, qn_target_parse("x86-64-v2", &c.target, &diag));
  qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_allocator_default(),
                                     &code, &diag));
  qn_code_deinit(&code);
  release(&c);
  qn_buf_deinit(&text);
}
END_TEST

START_TEST(code_is_the_same_every_time) {
  unsetenv("QUERN_OBJECT_CACHE");  // made anew
  compiled c = {0};
  qn_code code[2];
  qn_diag diag = {0};
  parse_kernels(memory_kernels, &c);
  runs_here("host", &c.target);
  qn_codegen_options options = {.target = &c.target, .threads = 2};
  for (int i = 0; i < 2; i++)
    qn_assert_ok(&diag, qn_cpu_compile((const qn_lkernel *const *)c.kernels, c.count, &options, qn_allocator_default(),
                                       &code[i], &diag));
  ck_assert_uint_eq(code[0].image_size, code[1].image_size);
  ck_assert_int_eq(memcmp(code[0].image, code[1].image, code[0].image_size), 0);
  qn_code_deinit(&code[0]);
  qn_code_deinit(&code[1]);
  release(&c);
}
END_TEST

START_TEST(no_kernels_are_no_error) {
  qn_target target;
  runs_here("host", &target);
  qn_codegen_options options = {.target = &target};
  qn_code code;
  qn_jit *jit;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_cpu_compile(NULL, 0, &options, qn_test_allocator(), &code, &diag));
  qn_code_deinit(&code);
  qn_assert_ok(&diag, qn_jit_create(NULL, 0, &options, qn_test_allocator(), &jit, &diag));
  qn_jit_destroy(jit);
  qn_jit_destroy(NULL);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(mma_is_for_gpus) {
  compiled c = {0};
  qn_diag diag = {0};
  qn_code code;
  parse_kernels("kernel \"tile\" {\n  local c : i32[128] each 4\n  mma u8s8k16 c[0] c[0] c[0]\n}\n", &c);
  runs_here("host", &c.target);
  qn_codegen_options options = {.target = &c.target};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "tile: got an mma, which only GPUs have",
                  qn_cpu_compile((const qn_lkernel *const *)c.kernels, 1, &options, qn_test_allocator(), &code, &diag));
  release(&c);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(copies_are_for_gpus) {
  compiled c = {0};
  qn_diag diag = {0};
  qn_code code;
  parse_kernels("kernel \"staged\" {\n  param w : u8[16]\n  local ring : u8[16] shared\n"
                "  for c in 0..1 data lane {\n    copy ring[0 : 16] = w[0]\n  }\n}\n",
                &c);
  runs_here("host", &c.target);
  qn_codegen_options options = {.target = &c.target};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "staged: got copies to shared memory",
                  qn_cpu_compile((const qn_lkernel *const *)c.kernels, 1, &options, qn_test_allocator(), &code, &diag));
  release(&c);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(errors_say_why) {
  compiled c = {0};
  qn_diag diag = {0};
  qn_jit *jit;
  parse_kernels(
      "kernel \"big\" {\n  param y : f32[16] out\n"
      "  local a : f32[262144]\n  local b : f32[262144]\n  local c : f32[262144]\n  local d : f32[262144]\n"
      "  local e : f32[1]\n"
      "  y[0] = 1.0\n}\n",
      &c);
  runs_here("host", &c.target);
  qn_codegen_options options = {.target = &c.target};
  qn_code code;
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "big",
                  qn_cpu_compile((const qn_lkernel *const *)c.kernels, 1, &options, qn_test_allocator(), &code, &diag));
  ck_assert_ptr_nonnull(strstr(diag.text, "4194304"));
  qn_target other = c.target;
  strcat(other.required, ",telepathy");
  options.target = &other;
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_TARGET, "this machine lacks telepathy",
                  qn_jit_create((const qn_lkernel *const *)c.kernels, 1, &options, qn_test_allocator(), &jit, &diag));
  release(&c);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

static qn_status compile_once(const qn_allocator *allocator, void *context) {
  compiled *c = context;
  qn_codegen_options options = {.target = &c->target, .threads = 1};
  qn_diag diag = {0};
  qn_jit *jit;
  qn_code code;
  QN_TRY(qn_cpu_compile((const qn_lkernel *const *)c->kernels, c->count, &options, allocator, &code, &diag));
  qn_code_deinit(&code);
  QN_TRY(qn_jit_create((const qn_lkernel *const *)c->kernels, c->count, &options, allocator, &jit, &diag));
  qn_jit_destroy(jit);
  return QN_OK;
}

START_TEST(failing_allocations) {
  compiled c = {0};
  parse_kernels(two_kernels, &c);
  runs_here("host", &c.target);
  qn_test_failing_allocations(compile_once, &c);
  release(&c);
}
END_TEST

QN_CASE(values, operators_match_the_interpreter, code_uses_only_what_it_requires, memory_matches_the_interpreter,
        half_precision_is_exact, math_functions_match_their_definition)
QN_CASE(interface, kernels_may_share_a_name, stages_are_dumped, far_prefetches_are_for_the_second_cache,
        crowded_sums_stay_in_memory,
        held_locals_outlive_the_turns, code_is_the_same_every_time, no_kernels_are_no_error, copies_are_for_gpus, mma_is_for_gpus, errors_say_why,
        failing_allocations)

QN_TEST_MAIN(values, interface)
