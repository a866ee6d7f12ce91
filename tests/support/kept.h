// What tests of results that are kept in a folder share (codegen/kept_file.h): looking at its entries, and damaging
// one.
#ifndef QN_TESTS_SUPPORT_KEPT_H
#define QN_TESTS_SUPPORT_KEPT_H

#include <stddef.h>
#include <sys/types.h>

// How many entries a folder has, and the path of the first.
size_t qn_kept_entries(const char *folder, char *out_path, size_t size);

// Of an entry: one that is written anew is another file, since it comes by a rename.
ino_t qn_kept_number(const char *path);

// Damages the one entry of a folder, cut anywhere or with a byte that is changed anywhere. After each `make` is to make
// the result again and to see that it is right; asserts that it has not believed the entry, which is written anew.
void qn_kept_damage(const char *folder, void (*make)(void *context), void *context);

#endif
