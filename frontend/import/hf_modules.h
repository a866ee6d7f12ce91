// A sentence-transformers folder: what comes after the encoder (pooling, scaling to length 1) is said in modules.json
// and in a folder for each module. Their keys join those of config.json, for templates to read: "modules.Pooling.place"
// is the module's number, "modules.Pooling.pooling_mode_mean_tokens" what its own config.json says; of the first, whose
// own is the model's, what sentence_*_config.json says.
#ifndef QN_IMPORT_HF_MODULES_H
#define QN_IMPORT_HF_MODULES_H

#include "frontend/import/hf_config.h"

// Adds to `config` what `folder` (with modules.json in it) has; `sentence_config` is the path of the first module's
// file, NULL = none. Errors: those of the reader, with the file's name; FORMAT for a list that is not one of modules.
QN_CHECKED qn_status qn_hf_modules_read(qn_hf_config *config, const char *folder, const char *sentence_config,
                                        qn_diag *diag);

#endif
