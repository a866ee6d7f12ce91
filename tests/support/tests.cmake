# The tests, by glob: tests/unit/test_*.c (one program each, on the Check library), tests/fuzz/fuzz_*.c (each mutates
# its own input by a fixed random sequence when it is run without arguments) and tests/e2e/*.sh (shell). Programs of
# tests/bench are built and not run. Each links the rooms whose headers it includes, so that a test of one room neither
# waits for nor breaks with another. Skipped tests exit with 77 and print "SKIP: reason". A new file is seen when
# CMake runs again (cmake build; a plain make does it too).

pkg_check_modules(ext_check QUIET IMPORTED_TARGET check)
if(NOT ext_check_FOUND)
  message(FATAL_ERROR "the library check is missing (Debian package check)")
endif()

# The targets to link with a source: the rooms whose headers it includes, itself or through headers of tests/, and
# support_<name> for each tests/support/<name>.h.
function(quern_targets_of source out_targets)
  set(pending ${source})
  set(seen)
  set(targets)
  while(pending)
    list(POP_FRONT pending file)
    if(file IN_LIST seen OR NOT EXISTS ${file})
      continue()
    endif()
    list(APPEND seen ${file})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    file(STRINGS ${file} lines REGEX "^#include [\"<]")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^#include [\"<]([^\">]*).*" "\\1" name "${line}")
      if(name MATCHES "^tests/")
        list(APPEND pending ${CMAKE_SOURCE_DIR}/${name})
        string(REGEX REPLACE "\\.h$" ".c" implementation ${CMAKE_SOURCE_DIR}/${name})
        if(name MATCHES "^tests/support/(.*)\\.h$" AND EXISTS ${implementation})
          list(APPEND targets support_${CMAKE_MATCH_1})
          list(APPEND pending ${implementation})
        elseif(name MATCHES "^tests/ptxsim/")
          list(APPEND targets support_sim)
        endif()
      elseif(name MATCHES "^frontend/import/")
        list(APPEND targets quern_import)
      elseif(name MATCHES "^frontend/")
        list(APPEND targets quern)
      elseif(name MATCHES "^(autotune|codegen|passes|ir)/")
        list(APPEND targets quern_${CMAKE_MATCH_1})
      elseif(name MATCHES "^runtime/base/")
        list(APPEND targets quern_base)
      elseif(name MATCHES "^runtime/")
        list(APPEND targets quern_run)
      elseif(name MATCHES "^(mlir|llvm)-c/")
        list(APPEND targets ext_llvm)
      endif()
    endforeach()
  endwhile()
  list(REMOVE_DUPLICATES targets)
  set(${out_targets} ${targets} PARENT_SCOPE)
endfunction()

# One small library a support file, so that a test waits only for what it uses.
file(GLOB support_sources CONFIGURE_DEPENDS tests/support/*.c)
foreach(source IN LISTS support_sources)
  get_filename_component(name ${source} NAME_WE)
  quern_targets_of(${source} targets)
  list(REMOVE_ITEM targets support_${name})
  add_library(support_${name} STATIC ${source})
  target_compile_definitions(support_${name} PUBLIC
    QUERN_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QUERN_BUILD_DIR="${CMAKE_BINARY_DIR}")
  target_link_libraries(support_${name} PUBLIC ${targets} PkgConfig::ext_check m)
endforeach()

# Compilers (LLVM, NVRTC) take most of the time of tests that use them. What they made is kept and found by the next test that
# asks for the same, and by other builds of the same source that are given the folder (tests/run).
set(QUERN_TEST_KEPT "${CMAKE_BINARY_DIR}/tests/kept" CACHE PATH "where tests keep what compilers made")

# What every test finds in its environment. LLVM and MLIR keep some memory until the process ends: lsan.supp.
set(test_environment
  "QUERN_SOURCE=${CMAKE_SOURCE_DIR}" "QUERN_BUILD=${CMAKE_BINARY_DIR}" "QUERN=${CMAKE_BINARY_DIR}/quern"
  "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/support/lsan.supp:print_suppressions=0"
  "XDG_DATA_HOME=${CMAKE_BINARY_DIR}/tests/no-data"  # not the user's own tuning database
  "XDG_CACHE_HOME=${CMAKE_BINARY_DIR}/tests/cache"   # nor their cache
  "QUERN_NVRTC_CACHE=${QUERN_TEST_KEPT}/nvrtc" "QUERN_OBJECT_CACHE=${QUERN_TEST_KEPT}/objects"
  "QUERN_CC=${CMAKE_C_COMPILER}" "QUERN_SANITIZE=${QUERN_SANITIZE}"
  "UBSAN_OPTIONS=print_stacktrace=1"
  # LLVM allocates much: shorter stacks of where take a tenth less time.
  "ASAN_OPTIONS=malloc_context_size=8")
if(NOT "$ENV{QUERN_SHARED}" STREQUAL "")
  list(APPEND test_environment "QUERN_SHARED=$ENV{QUERN_SHARED}")
endif()

# A program of one source file in <build>/tests.
function(quern_test_program name source)
  quern_targets_of(${source} targets)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE support_test ${targets})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endfunction()

# The long ones begin first, so that none is left alone at the end: seconds, roughly, of those that take more than ten.
set(test_costs
  test_kernels 50 test_kernel_formats 30 e2e_aarch64 60 e2e_identity 50 test_gpu_models 20 test_gpu_stories 20 test_cuda_compile 40 e2e_gpu 40 test_numeric_contract 30
  test_codegen 30 test_targets 25 test_architectures 35 e2e_riscv64 30 e2e_tune 30 e2e_cuda 25 e2e_quantize 20 e2e_cli 20
  e2e_explain 20 e2e_cache 20 test_alloc_sweep 20 test_cuda_simulated 20 test_gpu_architectures 20 e2e_faults 20 e2e_deb 20 e2e_errors 15 e2e_bench 15
  e2e_explain_page 15 e2e_cross_library 15 test_session 15 test_check 12 test_loop_passes 12 test_search 10)

# A test whose command and label are given.
function(quern_test name label)
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600 LABELS ${label}
    ENVIRONMENT "${test_environment}")
  list(FIND test_costs ${name} at)
  if(NOT at EQUAL -1)
    math(EXPR at "${at} + 1")
    list(GET test_costs ${at} cost)
    set_tests_properties(${name} PROPERTIES COST ${cost})
  endif()
endfunction()

file(GLOB unit_tests CONFIGURE_DEPENDS tests/unit/test_*.c)
foreach(source IN LISTS unit_tests)
  get_filename_component(name ${source} NAME_WE)
  quern_test_program(${name} ${source})
  quern_test(${name} unit ${name})
endforeach()

# All rooms' default allocator is the test's own there, which also sees files being written and child processes.
foreach(function qn_allocator_default qn_file_writer_open qn_file_writer_abandon qn_child_start qn_child_stop)
  target_link_options(test_alloc_sweep PRIVATE -Wl,--wrap=${function})
endforeach()

# A library that is put before the system's own (LD_PRELOAD) and has its calls fail: tests/e2e/faults.sh.
add_library(faults MODULE tests/support/preload/faults.c)
target_link_libraries(faults PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(faults PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

file(GLOB fuzz_tests CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
foreach(source IN LISTS fuzz_tests)
  get_filename_component(name ${source} NAME_WE)
  quern_test_program(${name} ${source})
  file(GLOB corpus CONFIGURE_DEPENDS tests/fuzz/corpus/${name}/*)
  quern_test(${name} fuzz ${name} ${corpus})
  if(QUERN_FUZZ)
    target_compile_definitions(${name} PRIVATE QN_LIBFUZZER)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  endif()
endforeach()

# tests/bench/<name>_main.c becomes quern-<name>.
file(GLOB bench_programs CONFIGURE_DEPENDS tests/bench/*_main.c)
foreach(source IN LISTS bench_programs)
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "(.*)_main" "quern-\\1" name ${name})
  quern_test_program(${name} ${source})
endforeach()

# One model shared by threads, and the scheduler at length, under ThreadSanitizer, which wants everything compiled for it and goes with no other.
if(NOT QUERN_SANITIZE)
  add_library(tsan_objects OBJECT ${base_sources} ${run_sources})
  target_compile_options(tsan_objects PRIVATE -fsanitize=thread)
  target_link_libraries(tsan_objects PUBLIC ${run_libraries})
  foreach(program threads:frontend/examples/threads.c soak:tests/bench/soak_main.c)
    string(REGEX REPLACE ":.*" "" name ${program})
    string(REGEX REPLACE ".*:" "" source ${program})
    add_executable(quern-${name}-tsan ${source} $<TARGET_OBJECTS:tsan_objects>)
    target_include_directories(quern-${name}-tsan PRIVATE runtime)
    target_compile_options(quern-${name}-tsan PRIVATE -fsanitize=thread)
    target_link_options(quern-${name}-tsan PRIVATE -fsanitize=thread)
    target_link_libraries(quern-${name}-tsan PRIVATE ${run_libraries})
    set_target_properties(quern-${name}-tsan PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  endforeach()
endif()

file(GLOB shell_tests CONFIGURE_DEPENDS tests/e2e/*.sh)
foreach(source IN LISTS shell_tests)
  get_filename_component(name ${source} NAME_WE)
  quern_test(e2e_${name} e2e bash ${source})
endforeach()

# The PTX simulator brings its own targets.
include(${CMAKE_SOURCE_DIR}/tests/ptxsim/ptxsim.cmake OPTIONAL)
