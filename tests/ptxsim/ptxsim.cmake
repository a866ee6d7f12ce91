# The simulator of PTX: a library that exports the CUDA driver API, built as ptxsim/libcuda.so.1 of the build tree, to be
# found by its path. Its hot loops are compiled for the instruction set of the machine that builds it where that has
# AVX2; contraction stays off as everywhere.
include(CheckCSourceRuns)
set(CMAKE_REQUIRED_FLAGS "-march=x86-64-v3")
check_c_source_runs("int main(void) { __builtin_cpu_init();
  return __builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\") ? 0 : 1; }" PTXSIM_X86_64_V3)
unset(CMAKE_REQUIRED_FLAGS)

file(GLOB ptxsim_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/ptxsim/*.c)
list(FILTER ptxsim_sources EXCLUDE REGEX "/(test|support)_[^/]*\\.c$")
# With sanitizers there are two: everybody's is without them, since what it runs is slow enough, and its own tests run the other.
function(ptxsim_library name folder)
  add_library(${name} SHARED ${ptxsim_sources})
  target_compile_options(${name} PRIVATE -fvisibility=hidden $<$<BOOL:${PTXSIM_X86_64_V3}>:-march=x86-64-v3>
    $<$<C_COMPILER_ID:Clang>:-Wno-pass-failed>)  # a lane loop that stays scalar is slower, and right
  # The process may have another libcuda, and our own base in it: nothing of either is to be mixed up.
  target_link_options(${name} PRIVATE -Wl,-Bsymbolic -Wl,--exclude-libs,ALL)
  set_target_properties(${name} PROPERTIES OUTPUT_NAME cuda SOVERSION 1
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${folder})
endfunction()
ptxsim_library(ptxsim ptxsim)
set(ptxsim_of_tests ptxsim)
target_compile_options(ptxsim PRIVATE -O3 $<$<BOOL:${QUERN_SANITIZE}>:-fno-sanitize=all>)
if(QUERN_SANITIZE)
  target_sources(ptxsim PRIVATE ${base_sources})
  target_link_options(ptxsim PRIVATE -fno-sanitize=all)
  target_link_libraries(ptxsim PRIVATE Threads::Threads m)
  ptxsim_library(ptxsim_checked ptxsim/checked)
  set(ptxsim_of_tests ptxsim_checked)
  target_compile_options(ptxsim_checked PRIVATE -O1)
endif()
target_link_libraries(${ptxsim_of_tests} PRIVATE quern_base m)

# Its tests load it by its path, as the runtime does.
add_library(support_sim STATIC ${CMAKE_SOURCE_DIR}/tests/ptxsim/support_sim.c
                               ${CMAKE_SOURCE_DIR}/tests/ptxsim/support_op.c
                               ${CMAKE_SOURCE_DIR}/tests/ptxsim/support_nvrtc.c)
target_compile_definitions(support_sim PUBLIC PTXSIM_LIBRARY="$<TARGET_FILE:ptxsim>")
target_link_libraries(support_sim PUBLIC support_test quern_codegen ${CMAKE_DL_LIBS} m)
add_dependencies(support_sim ptxsim)  # which it opens
file(GLOB ptxsim_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/ptxsim/test_ptxsim*.c)
foreach(source IN LISTS ptxsim_tests)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE support_sim)
  if(name STREQUAL test_ptxsim_table)
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/ptxsim/type.c ${CMAKE_SOURCE_DIR}/tests/ptxsim/form.c)  # the names are not exported
  endif()
  add_dependencies(${name} ${ptxsim_of_tests})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  quern_test(${name} ptxsim ${name})
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "QUERN_TEST_PTXSIM=$<TARGET_FILE:${ptxsim_of_tests}>")
endforeach()
