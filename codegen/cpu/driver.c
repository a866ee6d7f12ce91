// The driver of an object file (codegen/object_file.h) as LLVM IR: checks its arguments and the CPU, walks the
// program's steps one after another, and copies outputs out of the arena. It has no step table: what a step needs
// stands in its code. A step's parallel loop may be handed to the host, whose threads then do parts of it.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "codegen/cpu/emit.h"
#include "codegen/cpu/module.h"
#include "codegen/object_file.h"
#include "runtime/base/cpu_features.h"

typedef struct driver {
  const qn_driver *of;
  const qn_target *target;
  qn_arena *arena;
  qn_diag *diag;
  LLVMContextRef context;
  LLVMModuleRef module;
  LLVMBuilderRef b;
  LLVMTypeRef i8, i32, i64, ptr, none;
  LLVMTypeRef kernel_type, part_type, step_type, copy_type, check_type, parallel_type;
  LLVMValueRef image, weights;           // symbols; weights NULL = a field, or there are none
  LLVMValueRef part, step, copy, check;  // functions
  // Of the function at hand: where it goes for each code, of those that were asked for.
  LLVMValueRef function;
  LLVMBasicBlockRef exits[QN_DRIVER_LIMIT + 1];
  // Of the driver.
  LLVMValueRef args, operands, symbols, work;
  LLVMValueRef sizes[QN_SYM_COUNT];  // NULL = the program does not have it
} driver;

// --- helpers

static LLVMValueRef number(const driver *d, int64_t value) { return LLVMConstInt(d->i64, (uint64_t)value, true); }

static LLVMValueRef at(const driver *d, LLVMValueRef base, uint64_t offset) {
  LLVMValueRef index = LLVMConstInt(d->i64, offset, false);
  return offset ? LLVMBuildGEP2(d->b, d->i8, base, &index, 1, "") : base;
}

static LLVMValueRef call(const driver *d, LLVMTypeRef type, LLVMValueRef function, LLVMValueRef *args, unsigned count) {
  return LLVMBuildCall2(d->b, type, function, args, count, "");
}

static LLVMBasicBlockRef new_block(const driver *d) {
  return LLVMAppendBasicBlockInContext(d->context, d->function, "");
}

static void store_at(const driver *d, LLVMValueRef value, LLVMValueRef base, uint64_t index) {
  LLVMBuildStore(d->b, value, at(d, base, index * 8));
}

// Starts a function that does not throw; what belongs to one function alone is forgotten.
static LLVMValueRef begin_function(driver *d, const char *name, LLVMTypeRef type, LLVMLinkage linkage) {
  unsigned kind = LLVMGetEnumAttributeKindForName("nounwind", strlen("nounwind"));
  d->function = LLVMAddFunction(d->module, name, type);
  LLVMSetLinkage(d->function, linkage);
  LLVMAddAttributeAtIndex(d->function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(d->context, kind, 0));
  memset(d->exits, 0, sizeof d->exits);
  LLVMPositionBuilderAtEnd(d->b, new_block(d));
  return d->function;
}

// Goes on where `holds`; else the function returns the code.
static void demand(driver *d, LLVMValueRef holds, int code) {
  LLVMBasicBlockRef next = new_block(d);
  if (!d->exits[code]) {
    LLVMBasicBlockRef here = LLVMGetInsertBlock(d->b);
    d->exits[code] = new_block(d);
    LLVMPositionBuilderAtEnd(d->b, d->exits[code]);
    LLVMBuildRet(d->b, LLVMConstInt(d->i32, (unsigned)code, false));
    LLVMPositionBuilderAtEnd(d->b, here);
  }
  LLVMBuildCondBr(d->b, holds, next, d->exits[code]);
  LLVMPositionBuilderAtEnd(d->b, next);
}

static void demand_pointer(driver *d, LLVMValueRef pointer, bool aligned) {
  demand(d, LLVMBuildIsNotNull(d->b, pointer, ""), QN_DRIVER_ARGUMENT);
  if (!aligned) return;
  LLVMValueRef address = LLVMBuildPtrToInt(d->b, pointer, d->i64, "");
  LLVMValueRef rest = LLVMBuildAnd(d->b, address, number(d, QN_SCRATCH_ALIGNMENT - 1), "");
  demand(d, LLVMBuildICmp(d->b, LLVMIntEQ, rest, number(d, 0), ""), QN_DRIVER_ARGUMENT);
}

static LLVMValueRef internal_symbol(driver *d, const char *suffix) {
  const char *name = qn_arena_printf(d->arena, "%s_%s", d->of->name, suffix);
  if (!name) return NULL;
  LLVMValueRef symbol = LLVMAddGlobal(d->module, d->i8, name);
  LLVMSetVisibility(symbol, LLVMHiddenVisibility);
  return symbol;
}

// --- what the CPU can do

static const uint32_t STATE_BITS[] = {0, 0x06, 0xE6};  // of XCR0: XMM and YMM; masks and ZMM, too
enum { OSXSAVE = 27 };                                 // a bit of LEAF_1_ECX: xgetbv is there

static const qn_x86_feature x86_features[] = {
#define QN_X86_FEATURE(name, leaf, bit, state) {name, leaf, bit, state},
#include "runtime/base/cpu_features.def"
};
// Of architectures whose features the system tells, in words of the auxiliary vector.
typedef struct told_feature {
  const char *name;
  unsigned word, bit;
} told_feature;
static const told_feature a64_features[] = {
#define QN_A64_FEATURE(name, word, bit) {name, word, bit},
#include "runtime/base/cpu_features.def"
};
static const told_feature rv_features[] = {
#define QN_RV_FEATURE(name, bit) {name, 0, bit},
#include "runtime/base/cpu_features.def"
};

// What every CPU has that runs a driver: the driver itself is compiled for it.
static const struct base {
  const char *cpu, *features;
  const char *names;  // of its features, as targets require them
  const told_feature *told;
  size_t told_count;
} bases[QN_ARCH_COUNT] = {
    [QN_ARCH_X86_64] = {"x86-64", "", "", NULL, 0},
    [QN_ARCH_AARCH64] = {"generic", "", "neon", a64_features, QN_COUNT(a64_features)},
    [QN_ARCH_RISCV64] = {"generic-rv64", "+m,+a,+f,+d,+c", "m,a,f,d,c", rv_features, QN_COUNT(rv_features)},
};

// Where the words of cpuid are: leaf, subleaf and register (eax, ebx, ecx, edx).
static const struct {
  uint32_t leaf, subleaf, word;
} x86_words[LEAF_COUNT] = {
    [LEAF_1_ECX] = {1, 0, 2},
    [LEAF_1_EDX] = {1, 0, 3},
    [LEAF_7_EBX] = {7, 0, 1},
    [LEAF_7_ECX] = {7, 0, 2},
    [LEAF_7_EDX] = {7, 0, 3},
    [LEAF_7_1_EAX] = {7, 1, 0},
    [LEAF_EXT_ECX] = {0x80000001u, 0, 2},
};

// The bits that the target's features want, by word, without those of the base.
typedef struct wanted {
  uint64_t bits[LEAF_COUNT];
  qn_x86_state state;
  bool any;
} wanted;

static bool add_feature(const qn_target *target, qn_str name, wanted *out) {
  const struct base *base = &bases[target->arch];
  for (size_t i = 0; i < base->told_count; i++) {
    const told_feature *f = &base->told[i];
    if (!qn_str_is(name, f->name)) continue;
    out->bits[f->word] |= UINT64_C(1) << f->bit;
    out->any = true;
    return true;
  }
  for (size_t i = 0; target->arch == QN_ARCH_X86_64 && i < QN_COUNT(x86_features); i++) {
    const qn_x86_feature *f = &x86_features[i];
    if (!qn_str_is(name, f->name)) continue;
    out->bits[f->leaf] |= UINT64_C(1) << f->bit;
    out->state = f->state > out->state ? f->state : out->state;
    out->any = true;
    return true;
  }
  return false;
}

static qn_status list_features(const driver *d, wanted *out) {
  *out = (wanted){0};
  for (const char *at = d->target->required; *at;) {
    qn_str name = {at, strcspn(at, ",")};
    if (!qn_features_have(bases[d->target->arch].names, name) && !add_feature(d->target, name, out)) {
      return qn_fail(d->diag, QN_ERR_INTERNAL, d->target->name, "no test is known for the CPU feature %.*s",
                     QN_STR_ARGS(name));
    }
    at += name.length + (at[name.length] == ',');
  }
  if (out->state > STATE_SSE) out->bits[LEAF_1_ECX] |= UINT64_C(1) << OSXSAVE;
  return QN_OK;
}

static LLVMValueRef cpuid(const driver *d, uint32_t leaf_number, uint32_t subleaf) {
  static const char text[] = "cpuid", places[] = "={ax},={bx},={cx},={dx},{ax},{cx}";
  LLVMTypeRef words[] = {d->i32, d->i32, d->i32, d->i32}, inputs[] = {d->i32, d->i32};
  LLVMTypeRef type = LLVMFunctionType(LLVMStructTypeInContext(d->context, words, 4, false), inputs, 2, false);
  LLVMValueRef args[] = {LLVMConstInt(d->i32, leaf_number, false), LLVMConstInt(d->i32, subleaf, false)};
  LLVMValueRef code =
      LLVMGetInlineAsm(type, text, strlen(text), places, strlen(places), true, false, LLVMInlineAsmDialectATT, false);
  return call(d, type, code, args, 2);
}

static void demand_bits(driver *d, LLVMValueRef word, uint64_t bits) {
  LLVMValueRef mask = LLVMConstInt(LLVMTypeOf(word), bits, false);
  LLVMValueRef found = LLVMBuildAnd(d->b, word, mask, "");
  demand(d, LLVMBuildICmp(d->b, LLVMIntEQ, found, mask, ""), QN_DRIVER_TARGET);
}

static void demand_least(driver *d, LLVMValueRef word, uint32_t least) {
  LLVMValueRef holds = LLVMBuildICmp(d->b, LLVMIntUGE, word, LLVMConstInt(d->i32, least, false), "");
  demand(d, holds, QN_DRIVER_TARGET);
}

static void demand_x86(driver *d, const wanted *w) {
  static const char xgetbv[] = "xgetbv", places[] = "={ax},={dx},{cx}";
  bool seven = w->bits[LEAF_7_EBX] || w->bits[LEAF_7_ECX] || w->bits[LEAF_7_EDX] || w->bits[LEAF_7_1_EAX];
  if (seven) demand_least(d, LLVMBuildExtractValue(d->b, cpuid(d, 0, 0), 0, ""), 7);
  if (w->bits[LEAF_7_1_EAX]) demand_least(d, LLVMBuildExtractValue(d->b, cpuid(d, 7, 0), 0, ""), 1);
  for (int i = 0; i < LEAF_COUNT; i++) {
    if (!w->bits[i]) continue;
    LLVMValueRef words = cpuid(d, x86_words[i].leaf, x86_words[i].subleaf);
    demand_bits(d, LLVMBuildExtractValue(d->b, words, x86_words[i].word, ""), w->bits[i]);
  }
  if (w->state == STATE_SSE) return;
  LLVMTypeRef both[] = {d->i32, d->i32};
  LLVMTypeRef type = LLVMFunctionType(LLVMStructTypeInContext(d->context, both, 2, false), both, 1, false);
  LLVMValueRef code = LLVMGetInlineAsm(type, xgetbv, strlen(xgetbv), places, strlen(places), true, false,
                                       LLVMInlineAsmDialectATT, false);
  LLVMValueRef zero = LLVMConstInt(d->i32, 0, false);
  demand_bits(d, LLVMBuildExtractValue(d->b, call(d, type, code, &zero, 1), 0, ""), STATE_BITS[w->state]);
}

static void demand_told(driver *d, const wanted *w) {
  static const int vectors[] = {16, 26};  // AT_HWCAP, AT_HWCAP2
  LLVMTypeRef type = LLVMFunctionType(d->i64, &d->i64, 1, false);
  LLVMValueRef getauxval = LLVMAddFunction(d->module, "getauxval", type);
  for (int i = 0; i < 2; i++) {
    LLVMValueRef kind = number(d, vectors[i]);
    if (w->bits[i]) demand_bits(d, call(d, type, getauxval, &kind, 1), w->bits[i]);
  }
}

static LLVMValueRef read_known(const driver *d, LLVMValueRef known) {
  LLVMValueRef load = LLVMBuildLoad2(d->b, d->i8, known, "");
  LLVMSetOrdering(load, LLVMAtomicOrderingMonotonic);
  LLVMSetAlignment(load, 1);
  return load;
}

// i32 check(void): 0, or that the CPU lacks something. That it has all is found once.
static qn_status make_check(driver *d) {
  wanted w;
  QN_TRY(list_features(d, &w));
  if (!w.any) return QN_OK;
  LLVMValueRef known = LLVMAddGlobal(d->module, d->i8, "known");
  LLVMSetInitializer(known, LLVMConstInt(d->i8, 0, false));
  LLVMSetLinkage(known, LLVMInternalLinkage);
  d->check = begin_function(d, "check", d->check_type, LLVMInternalLinkage);
  LLVMBasicBlockRef look = new_block(d), done = new_block(d);
  LLVMBuildCondBr(d->b, LLVMBuildIsNotNull(d->b, read_known(d, known), ""), done, look);
  LLVMPositionBuilderAtEnd(d->b, look);
  if (bases[d->target->arch].told) {
    demand_told(d, &w);
  } else {
    demand_x86(d, &w);
  }
  LLVMValueRef store = LLVMBuildStore(d->b, LLVMConstInt(d->i8, 1, false), known);
  LLVMSetOrdering(store, LLVMAtomicOrderingMonotonic);
  LLVMSetAlignment(store, 1);
  LLVMBuildBr(d->b, done);
  LLVMPositionBuilderAtEnd(d->b, done);
  LLVMBuildRet(d->b, LLVMConstInt(d->i32, 0, false));
  return QN_OK;
}

// --- a part of a step

static LLVMValueRef intrinsic(driver *d, const char *name, LLVMTypeRef type, LLVMValueRef *args, unsigned count) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  return call(d, type, LLVMGetIntrinsicDeclaration(d->module, id, NULL, 0), args, count);
}

// The rounding mode and the like, as kernels want them; what was before is returned for restore_modes.
static LLVMValueRef set_modes(driver *d) {
  if (d->target->arch == QN_ARCH_AARCH64) {
    LLVMValueRef zero = number(d, 0);
    LLVMValueRef before = intrinsic(d, "llvm.aarch64.get.fpcr", LLVMFunctionType(d->i64, NULL, 0, false), NULL, 0);
    intrinsic(d, "llvm.aarch64.set.fpcr", LLVMFunctionType(d->none, &d->i64, 1, false), &zero, 1);
    return before;
  }
  if (d->target->arch == QN_ARCH_RISCV64) {
    LLVMValueRef nearest = LLVMConstInt(d->i32, 1, false);  // as in FLT_ROUNDS; nothing flushes denormals
    LLVMValueRef before = intrinsic(d, "llvm.get.rounding", LLVMFunctionType(d->i32, NULL, 0, false), NULL, 0);
    intrinsic(d, "llvm.set.rounding", LLVMFunctionType(d->none, &d->i32, 1, false), &nearest, 1);
    return before;
  }
  enum { MXCSR_DEFAULT = 0x1F80 };
  LLVMTypeRef type = LLVMFunctionType(d->none, &d->ptr, 1, false);
  LLVMValueRef before = LLVMBuildAlloca(d->b, d->i32, ""), own = LLVMBuildAlloca(d->b, d->i32, "");
  LLVMBuildStore(d->b, LLVMConstInt(d->i32, MXCSR_DEFAULT, false), own);
  intrinsic(d, "llvm.x86.sse.stmxcsr", type, &before, 1);
  intrinsic(d, "llvm.x86.sse.ldmxcsr", type, &own, 1);
  return before;
}

static void restore_modes(driver *d, LLVMValueRef before) {
  if (d->target->arch == QN_ARCH_AARCH64) {
    intrinsic(d, "llvm.aarch64.set.fpcr", LLVMFunctionType(d->none, &d->i64, 1, false), &before, 1);
  } else if (d->target->arch == QN_ARCH_RISCV64) {
    intrinsic(d, "llvm.set.rounding", LLVMFunctionType(d->none, &d->i32, 1, false), &before, 1);
  } else {
    intrinsic(d, "llvm.x86.sse.ldmxcsr", LLVMFunctionType(d->none, &d->ptr, 1, false), &before, 1);
  }
}

// void part(ptr work, i64 begin, i64 end): the kernel on a range; work is {kernel, operands, symbols}.
static void make_part(driver *d) {
  d->part = begin_function(d, "part", d->part_type, LLVMInternalLinkage);
  LLVMValueRef before = set_modes(d), work = LLVMGetParam(d->part, 0);
  LLVMValueRef kernel = LLVMBuildLoad2(d->b, d->ptr, work, "");
  LLVMValueRef args[] = {LLVMBuildLoad2(d->b, d->ptr, at(d, work, 8), ""),
                         LLVMBuildLoad2(d->b, d->ptr, at(d, work, 16), ""), LLVMGetParam(d->part, 1),
                         LLVMGetParam(d->part, 2)};
  call(d, d->kernel_type, kernel, args, 4);
  restore_modes(d, before);
  LLVMBuildRetVoid(d->b);
}

// void step(ptr parallel, ptr context, ptr work, i64 extent): all parts, by the host's function where it has one.
static void make_step(driver *d) {
  d->step = begin_function(d, "step", d->step_type, LLVMInternalLinkage);
  LLVMValueRef parallel = LLVMGetParam(d->step, 0), work = LLVMGetParam(d->step, 2), extent = LLVMGetParam(d->step, 3);
  LLVMBasicBlockRef some = new_block(d), alone = new_block(d), together = new_block(d), done = new_block(d);
  LLVMBuildCondBr(d->b, LLVMBuildICmp(d->b, LLVMIntSGT, extent, number(d, 0), ""), some, done);
  LLVMPositionBuilderAtEnd(d->b, some);
  LLVMBuildCondBr(d->b, LLVMBuildIsNull(d->b, parallel, ""), alone, together);
  LLVMPositionBuilderAtEnd(d->b, alone);
  LLVMValueRef args[] = {work, number(d, 0), extent};
  call(d, d->part_type, d->part, args, 3);
  LLVMBuildBr(d->b, done);
  LLVMPositionBuilderAtEnd(d->b, together);
  LLVMValueRef given[] = {LLVMGetParam(d->step, 1), d->part, work, extent};
  call(d, d->parallel_type, parallel, given, 4);
  LLVMBuildBr(d->b, done);
  LLVMPositionBuilderAtEnd(d->b, done);
  LLVMBuildRetVoid(d->b);
}

// void copy(ptr to, ptr from, i64 rows, i64 width, i64 pitch): bytes; nothing where `to` is NULL.
static void make_copy(driver *d) {
  d->copy = begin_function(d, "copy", d->copy_type, LLVMInternalLinkage);
  LLVMValueRef to = LLVMGetParam(d->copy, 0), from = LLVMGetParam(d->copy, 1), rows = LLVMGetParam(d->copy, 2);
  LLVMBasicBlockRef entry = LLVMGetInsertBlock(d->b), test = new_block(d), body = new_block(d), done = new_block(d);
  LLVMBuildCondBr(d->b, LLVMBuildIsNotNull(d->b, to, ""), test, done);
  LLVMPositionBuilderAtEnd(d->b, test);
  LLVMValueRef row = LLVMBuildPhi(d->b, d->i64, "");
  LLVMBuildCondBr(d->b, LLVMBuildICmp(d->b, LLVMIntSLT, row, rows, ""), body, done);
  LLVMPositionBuilderAtEnd(d->b, body);
  LLVMValueRef width = LLVMGetParam(d->copy, 3), to_at = LLVMBuildMul(d->b, row, width, ""),
               from_at = LLVMBuildMul(d->b, row, LLVMGetParam(d->copy, 4), "");
  LLVMBuildMemCpy(d->b, LLVMBuildGEP2(d->b, d->i8, to, &to_at, 1, ""), 1,
                  LLVMBuildGEP2(d->b, d->i8, from, &from_at, 1, ""), 1, width);
  LLVMValueRef next = LLVMBuildAdd(d->b, row, number(d, 1), ""), values[] = {number(d, 0), next};
  LLVMBasicBlockRef blocks[] = {entry, body};
  LLVMBuildBr(d->b, test);
  LLVMAddIncoming(row, values, blocks, 2);
  LLVMPositionBuilderAtEnd(d->b, done);
  LLVMBuildRetVoid(d->b);
}

// --- the driver's arguments

static LLVMValueRef load_field(const driver *d, size_t index, LLVMTypeRef type) {
  return LLVMBuildLoad2(d->b, type, at(d, d->args, index * 8), "");
}

// The field of a kind, and of a buffer where it is a tensor.
static LLVMValueRef find_field(const driver *d, qn_driver_field_kind kind, uint32_t buffer) {
  for (size_t i = 0; i < d->of->field_count; i++)
    if (d->of->fields[i].kind == kind && d->of->fields[i].buffer == buffer) return load_field(d, i, d->ptr);
  return NULL;
}

// Weights in a file are those that the object was written with.
static void check_weights(driver *d, LLVMValueRef weights) {
  demand_pointer(d, weights, true);
  LLVMValueRef found = LLVMBuildLoad2(d->b, d->i64, at(d, weights, offsetof(qn_weights_head, hash)), "");
  LLVMValueRef want = LLVMConstInt(d->i64, d->of->weights_hash, false);
  demand(d, LLVMBuildICmp(d->b, LLVMIntEQ, found, want, ""), QN_DRIVER_FORMAT);
}

static void check_arguments(driver *d) {
  demand_pointer(d, d->args, false);
  if (d->check) {
    LLVMValueRef code = call(d, d->check_type, d->check, NULL, 0);
    demand(d, LLVMBuildIsNull(d->b, code, ""), QN_DRIVER_TARGET);
  }
  for (size_t i = 0; i < d->of->field_count; i++) {
    const qn_driver_field *field = &d->of->fields[i];
    switch (field->kind) {
      case QN_FIELD_INPUT:
      case QN_FIELD_CACHE: demand_pointer(d, load_field(d, i, d->ptr), false); break;
      case QN_FIELD_WEIGHTS: check_weights(d, load_field(d, i, d->ptr)); break;
      case QN_FIELD_SCRATCH:
        if (d->of->program->arena_bytes > 0) demand_pointer(d, load_field(d, i, d->ptr), true);
        break;
      case QN_FIELD_SIZE: {
        LLVMValueRef size = load_field(d, i, d->i64);
        int64_t known = d->of->program->max_values[field->symbol];
        LLVMValueRef most = number(d, known ? known : INT32_MAX);
        d->sizes[field->symbol] = size;
        demand(d, LLVMBuildICmp(d->b, LLVMIntULE, size, most, ""), QN_DRIVER_LIMIT);
        break;
      }
      case QN_FIELD_OUTPUT:
      case QN_FIELD_PARALLEL:
      case QN_FIELD_PARALLEL_CONTEXT: break;
    }
  }
}

static LLVMValueRef dim_value(const driver *d, qn_dim dim) {
  LLVMValueRef value = number(d, dim.value);
  return dim.symbol ? LLVMBuildMul(d->b, value, d->sizes[dim.symbol], "") : value;
}

// Where a buffer is.
static LLVMValueRef buffer_pointer(driver *d, uint32_t index) {
  const qn_pbuf *p = &d->of->program->buffers.items[index];
  switch (p->kind) {
    case QN_PB_ARENA: return at(d, find_field(d, QN_FIELD_SCRATCH, 0), p->offset);
    case QN_PB_WEIGHT:
      return d->weights ? at(d, d->weights, p->offset)
                        : at(d, find_field(d, QN_FIELD_WEIGHTS, 0), QN_ARTIFACT_PAGE + p->offset);
    case QN_PB_CACHE: return find_field(d, QN_FIELD_CACHE, index);
    case QN_PB_INPUT: return find_field(d, QN_FIELD_INPUT, index);
  }
  return NULL;
}

// --- the steps

static size_t first_function(const driver *d, uint32_t kernel) {
  size_t first = 0;
  for (uint32_t k = 0; k < kernel; k++) first += (size_t)d->of->plan->kernels[k].variant_count;
  return first;
}

// The variant for the rows at hand: its function, and the iterations of its loop.
static qn_status choose_variant(driver *d, const qn_pstep *step, LLVMValueRef *out_entry, LLVMValueRef *out_extent) {
  const qn_pkernel *kernel = &d->of->plan->kernels[step->kernel];
  size_t first = first_function(d, step->kernel);
  LLVMValueRef rows = kernel->rows ? d->sizes[kernel->rows] : NULL;
  int64_t covered = 0;
  for (int v = 0; v < kernel->variant_count; v++) {
    if (rows && kernel->variants[v].rows_min > covered + 1) break;
    covered = kernel->variants[v].rows_max;
  }
  if (rows && covered < d->of->program->max_values[kernel->rows])
    return qn_fail(d->diag, QN_ERR_INTERNAL, kernel->name, "no variant is for more than %" PRId64 " rows", covered);
  for (int v = kernel->variant_count - 1; v >= 0; v--) {
    const qn_pvariant *variant = &kernel->variants[v];
    LLVMValueRef entry = at(d, d->image, d->of->offsets[first + (size_t)v]), extent = dim_value(d, variant->extent);
    bool last = v == kernel->variant_count - 1;
    LLVMValueRef fits = last || !rows ? NULL : LLVMBuildICmp(d->b, LLVMIntSLE, rows, number(d, variant->rows_max), "");
    *out_entry = fits ? LLVMBuildSelect(d->b, fits, entry, *out_entry, "") : entry;
    *out_extent = fits ? LLVMBuildSelect(d->b, fits, extent, *out_extent, "") : extent;
  }
  if (rows)  // a variant may be for one row exactly
    *out_extent = LLVMBuildSelect(d->b, LLVMBuildIsNull(d->b, rows, ""), number(d, 0), *out_extent, "");
  return QN_OK;
}

static qn_status make_steps(driver *d, LLVMValueRef parallel, LLVMValueRef context) {
  const qn_program *program = d->of->program;
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    size_t operands = program->kernels.items[step->kernel].plain->param_count;
    LLVMValueRef entry = NULL, extent = NULL;
    QN_TRY(choose_variant(d, step, &entry, &extent));
    for (size_t o = 0; o < operands; o++) store_at(d, buffer_pointer(d, step->buffers[o]), d->operands, o);
    store_at(d, entry, d->work, 0);
    LLVMValueRef args[] = {parallel, context, d->work, extent};
    call(d, d->step_type, d->step, args, 4);
  }
  return QN_OK;
}

static void copy_outputs(driver *d) {
  for (size_t i = 0; i < d->of->field_count; i++) {
    const qn_driver_field *field = &d->of->fields[i];
    if (field->kind != QN_FIELD_OUTPUT) continue;
    const qn_pbuf *p = &d->of->program->buffers.items[field->buffer];
    LLVMValueRef rows = p->type.rank > 0 ? dim_value(d, p->type.dims[0]) : number(d, 1);
    LLVMValueRef width = number(d, (int64_t)sizeof(float));
    for (int a = 1; a < p->type.rank; a++) width = LLVMBuildMul(d->b, width, dim_value(d, p->type.dims[a]), "");
    bool padded = p->type.rank >= 2 && p->row_pitch > 0;
    LLVMValueRef pitch = padded ? number(d, p->row_pitch * (int64_t)sizeof(float)) : width;
    if (!padded) {
      width = LLVMBuildMul(d->b, width, rows, "");
      rows = number(d, 1);
    }
    LLVMValueRef args[] = {load_field(d, i, d->ptr), buffer_pointer(d, field->buffer), rows, width, pitch};
    call(d, d->copy_type, d->copy, args, 5);
  }
}

static size_t most_operands(const qn_program *program) {
  size_t most = 1;
  for (size_t k = 0; k < program->kernels.count; k++) {
    size_t count = program->kernels.items[k].plain->param_count;
    most = count > most ? count : most;
  }
  return most;
}

// i32 NAME_run(ptr args)
static qn_status make_run(driver *d) {
  const char *name = qn_arena_printf(d->arena, "%s_run", d->of->name);
  if (!name) return qn_fail_nomem(d->diag, d->of->name, "the driver's name");
  begin_function(d, name, LLVMFunctionType(d->i32, &d->ptr, 1, false), LLVMExternalLinkage);
  d->args = LLVMGetParam(d->function, 0);
  d->operands = LLVMBuildArrayAlloca(d->b, d->ptr, number(d, (int64_t)most_operands(d->of->program)), "");
  d->symbols = LLVMBuildArrayAlloca(d->b, d->i64, number(d, QN_SYM_COUNT), "");
  d->work = LLVMBuildArrayAlloca(d->b, d->ptr, number(d, 3), "");
  check_arguments(d);
  for (int s = 0; s < QN_SYM_COUNT; s++) store_at(d, d->sizes[s] ? d->sizes[s] : number(d, 0), d->symbols, (uint64_t)s);
  store_at(d, d->operands, d->work, 1);
  store_at(d, d->symbols, d->work, 2);
  QN_TRY(make_steps(d, find_field(d, QN_FIELD_PARALLEL, 0), find_field(d, QN_FIELD_PARALLEL_CONTEXT, 0)));
  copy_outputs(d);
  LLVMBuildRet(d->b, LLVMConstInt(d->i32, 0, false));
  return QN_OK;
}

// --- all

static void make_types(driver *d) {
  d->i8 = LLVMInt8TypeInContext(d->context);
  d->i32 = LLVMInt32TypeInContext(d->context);
  d->i64 = LLVMInt64TypeInContext(d->context);
  d->ptr = LLVMPointerTypeInContext(d->context, 0);
  d->none = LLVMVoidTypeInContext(d->context);
  LLVMTypeRef kernel[] = {d->ptr, d->ptr, d->i64, d->i64}, part[] = {d->ptr, d->i64, d->i64},
              step[] = {d->ptr, d->ptr, d->ptr, d->i64}, copy[] = {d->ptr, d->ptr, d->i64, d->i64, d->i64};
  d->kernel_type = LLVMFunctionType(d->none, kernel, 4, false);
  d->part_type = LLVMFunctionType(d->none, part, 3, false);
  d->step_type = d->parallel_type = LLVMFunctionType(d->none, step, 4, false);
  d->copy_type = LLVMFunctionType(d->none, copy, 5, false);
  d->check_type = LLVMFunctionType(d->i32, NULL, 0, false);
}

static qn_status make_module(driver *d) {
  make_types(d);
  d->image = internal_symbol(d, "image");
  d->weights = d->of->own_weights ? internal_symbol(d, "weights") : NULL;
  if (!d->image || (d->of->own_weights && !d->weights)) return qn_fail_nomem(d->diag, d->of->name, "names of symbols");
  QN_TRY(make_check(d));
  make_part(d);
  make_step(d);
  make_copy(d);
  return make_run(d);
}

// Its code must run where the kernels' does not, so as to say so.
static qn_target base_target(const qn_target *target) {
  qn_target base = *target;
  snprintf(base.cpu, sizeof base.cpu, "%s", bases[target->arch].cpu);
  snprintf(base.features, sizeof base.features, "%s", bases[target->arch].features);
  return base;
}

static qn_status emit(driver *d, const qn_allocator *allocator, uint8_t **out, size_t *out_size) {
  qn_target base = base_target(d->target);
  qn_codegen_options options = {.target = &base};
  LLVMMemoryBufferRef buffer = NULL;
  QN_TRY(qn_object_emit(d->module, &options, &buffer, d->diag));
  size_t size = LLVMGetBufferSize(buffer);
  *out = qn_alloc(allocator, size);
  *out_size = size;
  if (*out) memcpy(*out, LLVMGetBufferStart(buffer), size);
  LLVMDisposeMemoryBuffer(buffer);
  return *out ? QN_OK : qn_fail_nomem(d->diag, d->of->name, "the driver");
}

qn_status qn_cpu_driver(const qn_driver *of, const qn_codegen_options *options, const qn_allocator *allocator,
                        uint8_t **out, size_t *out_size, qn_diag *diag) {
  qn_arena arena;
  *out = NULL;
  driver d = {.of = of, .target = options->target, .arena = &arena, .diag = diag, .context = LLVMContextCreate()};
  qn_arena_init(&arena, allocator);
  d.module = LLVMModuleCreateWithNameInContext(of->name, d.context);
  d.b = LLVMCreateBuilderInContext(d.context);
  qn_status status = make_module(&d);
  if (status == QN_OK) status = emit(&d, allocator, out, out_size);
  LLVMDisposeBuilder(d.b);
  LLVMDisposeModule(d.module);
  LLVMContextDispose(d.context);
  qn_arena_deinit(&arena);
  return status;
}
