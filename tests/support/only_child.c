// Looks through /proc.
#include "tests/support/only_child.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/test.h"

// Of "pid (name) state parent ...", where a name may have anything in it; 0 where the process has ended meanwhile.
static pid_t parent_of(const char *pid) {
  char path[64], line[512] = "", state;
  int parent = 0;
  snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  const char *name_end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
  fclose(file);
  return name_end && sscanf(name_end + 1, " %c %d", &state, &parent) == 2 ? (pid_t)parent : 0;
}

pid_t qn_test_only_child(void) {
  pid_t child = 0;
  DIR *processes = opendir("/proc");
  qn_check(processes != NULL, "/proc is not there, and with it nothing tells which process is a child");
  for (const struct dirent *entry; child == 0 && (entry = readdir(processes)) != NULL;) {
    if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name)) continue;
    if (parent_of(entry->d_name) == getpid()) child = (pid_t)atoi(entry->d_name);
  }
  closedir(processes);
  return child;
}
