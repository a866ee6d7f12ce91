# What `cmake --install` puts where, and the Debian package: the program with its manual pages and completion, both
# libraries, shared and static, with headers, pkg-config files and a CMake package. All of it may be moved as a whole.
include(frontend/package/runtime.cmake)
include(CMakePackageConfigHelpers)

set(private_folder ${CMAKE_INSTALL_LIBDIR}/quern)  # of the code generator, which is nobody else's library

# ---- the libraries

set(compile_objects ${run_objects})
foreach(room quern quern_import quern_autotune quern_codegen quern_passes quern_ir)
  list(APPEND compile_objects $<TARGET_OBJECTS:${room}>)
endforeach()
set(compile_libraries ${run_libraries} ext_cjson ext_sqlite ext_utf8proc)
quern_shared(quern_compile_shared quern frontend/quern.map OBJECTS ${compile_objects} LINK ${compile_libraries})
# The rooms are archives that refer to one another; what a program links is one.
add_library(quern_compile_static STATIC ${compile_objects})
set_target_properties(quern_compile_static PROPERTIES OUTPUT_NAME quern ARCHIVE_OUTPUT_DIRECTORY ${staged})

file(RELATIVE_PATH program_to_private ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR}/quern)
set_target_properties(quern_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${program_to_private}")
set_target_properties(quern_llvm PROPERTIES INSTALL_RPATH "" INSTALL_RPATH_USE_LINK_PATH ON)

install(TARGETS quern_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS quern_compile_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS quern_compile_static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS quern_llvm LIBRARY DESTINATION ${private_folder})

# ---- headers, which lie side by side once installed

add_custom_command(OUTPUT ${staged}/quern.h DEPENDS frontend/quern.h
  COMMAND sed "s,\"runtime/quern_run[.]h\",\"quern_run.h\"," ${CMAKE_SOURCE_DIR}/frontend/quern.h > ${staged}/quern.h
  VERBATIM)
install(FILES ${staged}/quern.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# ---- manual pages and completion, which the program itself makes of its tables

add_custom_command(OUTPUT ${staged}/man/quern.1 ${staged}/completion/quern ${staged}/completion/_quern DEPENDS quern_cli
  COMMAND ${CMAKE_COMMAND} -E rm -rf ${staged}/man
  COMMAND ${CMAKE_COMMAND} -E make_directory ${staged}/completion
  COMMAND quern_cli man --all ${staged}/man
  COMMAND quern_cli completion bash > ${staged}/completion/quern
  COMMAND quern_cli completion zsh > ${staged}/completion/_quern
  VERBATIM)
add_custom_target(quern_documents ALL
  DEPENDS ${staged}/quern.h ${staged}/man/quern.1 ${staged}/completion/quern ${staged}/completion/_quern)
install(DIRECTORY ${staged}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 FILES_MATCHING PATTERN "*.1")
install(FILES ${staged}/completion/quern DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${staged}/completion/_quern DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY frontend/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})

# ---- for those who build against it

quern_flags(QUERN_PRIVATE ${QUERN_RUN_PRIVATE_LIST} cjson sqlite3 utf8proc)
file(RELATIVE_PATH QUERN_CMAKE_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/cmake/quern ${CMAKE_INSTALL_PREFIX})
foreach(name quern.pc quernConfig.cmake)
  configure_file(frontend/package/${name}.in ${staged}/${name} @ONLY)
endforeach()
write_basic_package_version_file(${staged}/quernConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${staged}/quern.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${staged}/quernConfig.cmake ${staged}/quernConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/quern)

# ---- cpack: a Debian package, and an archive

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME quern)
set(CPACK_PACKAGE_CONTACT "quern <quern@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "compiles transformer models to machine code and runs them")
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)  # what it depends on is what its programs and libraries are linked with
# LLVM's library is found in ${QUERN_LLVM_ROOT}, by a link of the development package, which has no word on that.
string(REGEX MATCH "[0-9]+$" llvm_version "${QUERN_LLVM_ROOT}")
if(llvm_version)
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "libllvm${llvm_version}")
endif()
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS libsodium23)  # signatures
include(CPack)
