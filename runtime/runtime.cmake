# The runtime's files are compiled once and go into three libraries: its base (which every room uses), and the whole
# as a static and as a shared library (what a program links that only runs artifacts; it needs no LLVM).
file(GLOB base_sources CONFIGURE_DEPENDS runtime/base/*.c)
file(GLOB run_sources CONFIGURE_DEPENDS runtime/*.c)
set(run_libraries ext_hwloc ext_pcre2 Threads::Threads ${CMAKE_DL_LIBS} m)
add_library(base_objects OBJECT ${base_sources})
add_library(run_objects OBJECT ${run_sources})
target_link_libraries(run_objects PUBLIC ${run_libraries})
set(run_objects $<TARGET_OBJECTS:base_objects> $<TARGET_OBJECTS:run_objects>)
add_library(quern_base STATIC $<TARGET_OBJECTS:base_objects>)
target_link_libraries(quern_base PUBLIC Threads::Threads m)
add_library(quern_run STATIC ${run_objects})
target_link_libraries(quern_run PUBLIC ${run_libraries})
