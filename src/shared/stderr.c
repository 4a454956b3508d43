// Debian's static codec libraries are made for programs and reach `stderr` as if it lay next to them.
// In a shared library it would not; so the library has a variable of that name of its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

__attribute__((visibility("hidden"))) void* stderr;

__attribute__((constructor(101))) static void find_stderr(void) {
  void** libc_stderr = (void**)dlsym(RTLD_DEFAULT, "stderr");
  if (libc_stderr != NULL) stderr = *libc_stderr;
}
