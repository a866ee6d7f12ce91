# cmake -DLIBRARY=... -DOUT=... -P: a C file with the hash of the code generator's library, so that a program knows which
# one it was built with (frontend/build_id.c) without loading it.
file(SHA256 ${LIBRARY} hash)
file(WRITE ${OUT} "#include \"codegen/target.h\"\n\nconst char qn_generator_id[] = \"${hash}\";\n")
