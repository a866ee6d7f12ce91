// What a graph of a user's own adds to the template format: weights whose values stand in the JSON itself.
#ifndef QN_IMPORT_GRAPH_JSON_H
#define QN_IMPORT_GRAPH_JSON_H

#include "frontend/import/json.h"
#include "frontend/import/template.h"

// Reads "data" (a list of numbers) or "base64" (little-endian f32) of a weight into its data; neither leaves it as it
// is. The shape must be known and constant: numbers, no expressions.
QN_CHECKED qn_status qn_graph_json_read_data(const qn_json *json, const cJSON *item, const char *path,
                                             qn_template_weight *weight);

// Decodes RFC 4648 base64, padding optional, white space skipped, into memory from the arena. False when a character
// is none of the alphabet or the length is impossible, or memory runs out (*out is NULL then).
bool qn_base64_decode(qn_str text, qn_arena *arena, uint8_t **out, size_t *out_size);

#endif
