# The built-in architecture templates: models/*.json as character arrays in one generated C file, so that the program
# needs no files beside it. (Arrays and not string literals: C17 compilers must take literals of 4095 bytes only.)
# Sets quern_templates_source.

file(GLOB template_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.json)
list(SORT template_files)
set(template_arrays "")
set(template_table "")
set(template_count 0)
foreach(file IN LISTS template_files)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  get_filename_component(name ${file} NAME)
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "((0x..,){20})" "\\1\n" bytes "${bytes}")
  string(APPEND template_arrays "static const char text_${template_count}[] = {\n${bytes}0};\n")
  string(APPEND template_table "    {\"${name}\", text_${template_count}},\n")
  math(EXPR template_count "${template_count} + 1")
endforeach()

set(quern_templates_source ${CMAKE_BINARY_DIR}/generated/builtin_templates.c)
file(CONFIGURE OUTPUT ${quern_templates_source} @ONLY CONTENT
"// Made by models/templates.cmake from models/*.json.
#include \"frontend/import/import.h\"

@template_arrays@
const qn_builtin_template qn_builtin_templates[] = {
@template_table@};
const size_t qn_builtin_template_count = @template_count@;
")
