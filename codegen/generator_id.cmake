# cmake -DFILES=a,b -DOUT=... -P: a C file with the hash of the libraries that make code of kernels (loop passes, loop IR, the
# code generator), so that a program knows which ones it was built with (frontend/build_id.c) without loading any.
string(REPLACE "," ";" FILES "${FILES}")
foreach(file ${FILES})
  file(SHA256 ${file} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
file(WRITE ${OUT} "#include \"codegen/target.h\"\n\nconst char qn_generator_id[] = \"${hash}\";\n")
