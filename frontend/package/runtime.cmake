# What libquern_run is once its files are compiled: a shared and a static library, a header and a pkg-config file. With
# QUERN_RUNTIME_ONLY it is all that is built and installed, also for another processor than this one.
include(GNUInstallDirs)

set(QUERN_SOVERSION 0)
set(staged ${CMAKE_BINARY_DIR}/staged)

# A shared library of objects that rooms have compiled, which exports what its map says.
function(quern_shared target name map)
  cmake_parse_arguments(ARG "" "" "OBJECTS;LINK" ${ARGN})
  add_library(${target} SHARED ${ARG_OBJECTS})
  target_link_libraries(${target} PRIVATE ${ARG_LINK})
  target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/${map})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name} VERSION ${PROJECT_VERSION}
    SOVERSION ${QUERN_SOVERSION} LINK_DEPENDS ${CMAKE_SOURCE_DIR}/${map} INSTALL_RPATH "$ORIGIN/quern")
endfunction()

quern_shared(quern_run_shared quern_run runtime/quern_run.map OBJECTS ${run_objects} LINK ${run_libraries})
install(TARGETS quern_run_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS quern_run ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES runtime/quern_run.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# ---- for those who build against it

# quern_flags(<variable> <library>...): "-lhwloc -lm", and the list as <variable>_LIST.
function(quern_flags variable)
  set(libraries ${ARGN})
  set(${variable}_LIST ${libraries} PARENT_SCOPE)
  list(TRANSFORM libraries PREPEND -l)
  list(JOIN libraries " " flags)
  set(${variable} ${flags} PARENT_SCOPE)
endfunction()

quern_flags(QUERN_RUN_PRIVATE hwloc pcre2-8 pthread dl m)
file(RELATIVE_PATH QUERN_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(frontend/package/quern_run.pc.in ${staged}/quern_run.pc @ONLY)
install(FILES ${staged}/quern_run.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
