// A compiled program as one relocatable ELF object: kernels' code, packed weights, and a driver, a function in C's
// calling convention that walks the steps. It needs nothing of quern to run, and of a C library memcpy alone (but
// for x86-64 getauxval, too, where the code needs features that not every CPU has).
#ifndef QN_CODEGEN_OBJECT_FILE_H
#define QN_CODEGEN_OBJECT_FILE_H

#include "codegen/artifact_write.h"

// What the driver's one argument points to: a struct of fields of 8 bytes each.
typedef enum qn_driver_field_kind {
  QN_FIELD_INPUT,             // pointers, to the tensor of a buffer: dense
  QN_FIELD_OUTPUT,            // the same; NULL = not wanted
  QN_FIELD_CACHE,             // a pool of pages
  QN_FIELD_WEIGHTS,           // the file of weights, where they are not in the object
  QN_FIELD_SCRATCH,           // the program's arena
  QN_FIELD_SIZE,              // a symbol's value, i64
  QN_FIELD_PARALLEL,          // void (*)(void *context, void (*part)(void *, int64_t, int64_t), void *work, int64_t n)
  QN_FIELD_PARALLEL_CONTEXT,  // its first argument
} qn_driver_field_kind;
typedef struct qn_driver_field {
  qn_driver_field_kind kind;
  uint32_t buffer;   // INPUT, OUTPUT, CACHE: of the program
  qn_symbol symbol;  // SIZE
} qn_driver_field;

enum { QN_SCRATCH_ALIGNMENT = 64 };  // of the arena, and of weights

// The driver returns 0 or one of these, which are qn_status's.
enum { QN_DRIVER_ARGUMENT = 2, QN_DRIVER_FORMAT = 3, QN_DRIVER_TARGET = 7, QN_DRIVER_LIMIT = 8 };

// The first page of a file of weights, which are in its other pages.
#define QN_WEIGHTS_MAGIC "quernwt\n"
typedef struct qn_weights_head {
  char magic[8];
  uint64_t hash;  // of the weights, as an artifact has it
  uint64_t size;  // bytes of them
} qn_weights_head;

typedef struct qn_driver {
  const char *name;               // a C identifier: the driver is NAME_run
  const qn_program *program;      // memory planned, offsets of weights set
  const qn_program_plan *plan;    // that of `offsets`
  const uint64_t *offsets;        // of the plan's functions in the image
  const qn_driver_field *fields;  // in the order of the struct
  size_t field_count;
  bool own_weights;       // they are the symbol NAME_weights, otherwise a file that a field points to
  uint64_t weights_hash;  // of that file's head
} qn_driver;

// The fields that a program's driver has, in the arena.
QN_CHECKED qn_status qn_driver_list_fields(const qn_program *program, bool own_weights, qn_arena *arena,
                                           const qn_driver_field **out, size_t *out_count, qn_diag *diag);

// The driver as an ELF object, which refers to NAME_image and, with own_weights, NAME_weights (codegen/cpu/driver.c).
// *out is of the allocator.
QN_CHECKED qn_status qn_cpu_driver(const qn_driver *driver, const qn_codegen_options *options,
                                   const qn_allocator *allocator, uint8_t **out, size_t *out_size, qn_diag *diag);

typedef struct qn_object_spec {
  const char *name;
  const qn_target *target;          // a CPU
  const qn_artifact_spec *program;  // one program, for CPUs; its weights and progress
  const qn_program_plan *plan;
  const qn_code *code;
  qn_file_writer *weights;        // the file that they go into; NULL = into the object
  const qn_driver_field *fields;  // out, with what follows: in `arena`
  size_t field_count;
  uint64_t weight_bytes;  // of them, or of their file
  qn_arena *arena;        // borrowed
} qn_object_spec;

// Writes everything through `writer`, which the caller opens, commits or abandons. Errors: LIMIT (more weights than an
// object can have near its code).
QN_CHECKED qn_status qn_object_write(qn_file_writer *writer, qn_object_spec *spec, const qn_codegen_options *options,
                                     const qn_allocator *allocator, qn_diag *diag);

#endif
