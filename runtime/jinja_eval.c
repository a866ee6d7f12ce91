// Walks a template's tree: statements print, expressions give values.
#include "runtime/jinja_impl.h"

static qn_status evaluate(evaluation *e, const node *n, value *out);
static qn_status execute(evaluation *e, const node *n);

// ---- scopes

static qn_status set_variable(evaluation *e, scope *in, qn_str name, value v) {
  for (variable *at = in->variables; at; at = at->next) {
    QN_TRY(qn_jinja_charge(e, 0));
    if (!qn_str_equal(at->name, name)) continue;
    at->value = v;
    return QN_OK;
  }
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof(variable), &memory));
  *(variable *)memory = (variable){name, v, in->variables};
  in->variables = memory;
  return QN_OK;
}

static qn_status open_scope(evaluation *e, scope *outer) {
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof(scope), &memory));
  e->scope = memory;
  e->scope->outer = outer;
  return QN_OK;
}

static qn_status look_up(evaluation *e, qn_str name, value *out) {
  for (scope *s = e->scope; s; s = s->outer) {
    for (variable *at = s->variables; at; at = at->next) {
      QN_TRY(qn_jinja_charge(e, 0));
      if (!qn_str_equal(at->name, name)) continue;
      *out = at->value;
      return QN_OK;
    }
  }
  const value *given = qn_jinja_map_get(e->variables, name);
  if (given) {
    *out = *given;
    return QN_OK;
  }
  const qn_jinja_builtin *global = qn_jinja_find_builtin(qn_jinja_globals, name);
  if (!global)
    return qn_jinja_make_undefined(e, out, "'%.*s' is undefined", (int)(name.length < 100 ? name.length : 100),
                                   name.data);
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof(qn_jinja_function), &memory));
  *(qn_jinja_function *)memory = (qn_jinja_function){.builtin = global};
  *out = (value){.kind = QN_JINJA_FUNCTION, .function = memory};
  return QN_OK;
}

// ---- what is printed, kept

// Prints into another buffer, which take_printed makes a value of.
static qn_buf *begin_printing(evaluation *e, qn_buf *buf) {
  qn_buf *before = e->out;
  qn_buf_init(buf, e->arena->allocator);
  e->out = buf;
  return before;
}

static qn_status take_printed(evaluation *e, qn_buf *before, qn_status status, value *out) {
  qn_buf *buf = e->out;
  e->out = before;
  if (status == QN_OK) return qn_jinja_take_buffer(e, buf, out);
  qn_buf_deinit(buf);
  return status;
}

static qn_status printed_by(evaluation *e, const node *body, value *out) {
  qn_buf buf, *before = begin_printing(e, &buf);
  return take_printed(e, before, execute(e, body), out);
}

// ---- calls

static qn_status evaluate_arguments(evaluation *e, const node *call, arguments *out) {
  void *items, *names;
  size_t positional = 0;
  QN_TRY(qn_jinja_take_array(e, call->count, sizeof(value), &items));
  QN_TRY(qn_jinja_take_array(e, call->count, sizeof(qn_str), &names));
  value *values = items;
  for (size_t i = 0; i < call->count; i++) {
    QN_TRY(evaluate(e, call->items[i].value, &values[i]));
    if (call->items[i].name.length == 0) {
      positional++;
    } else {
      ((qn_str *)names)[i - positional] = call->items[i].name;
    }
  }
  *out = (arguments){values, positional, names, values + positional, call->count - positional};
  return QN_OK;
}

// The place of a name in a list with commas between; -1 when it is not there.
static int place_of(const char *parameters, qn_str name) {
  for (int place = 0; *parameters; place++) {
    size_t length = strcspn(parameters, ",");
    if (qn_str_equal((qn_str){parameters, length}, name)) return place;
    parameters += length + (parameters[length] == ',');
  }
  return -1;
}

static int count_parameters(const char *parameters) {
  int count = *parameters ? 1 : 0;
  for (; *parameters; parameters++) count += *parameters == ',';
  return count;
}

static qn_status place_arguments(evaluation *e, const qn_jinja_builtin *builtin, const char *what,
                                 const arguments *args, value *placed) {
  int most = count_parameters(builtin->parameters);
  for (int i = 0; i < MAX_PARAMETERS; i++) placed[i] = ABSENT_VALUE;
  if (args->count > (size_t)most)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s: got %zu arguments, want at most %d", what, builtin->name,
                          args->count, most);
  for (size_t i = 0; i < args->count; i++) placed[i] = args->items[i];
  for (size_t i = 0; i < args->named_count; i++) {
    int place = place_of(builtin->parameters, args->names[i]);
    if (place < 0)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s: there is no argument '%.*s', want %s", what, builtin->name,
                            QN_STR_ARGS(args->names[i]), most ? builtin->parameters : "none");
    if (placed[place].kind != QN_JINJA_ABSENT)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s: the argument '%.*s' is there twice", what, builtin->name,
                            QN_STR_ARGS(args->names[i]));
    placed[place] = args->named[i];
  }
  for (int i = 0; i < builtin->required; i++)
    if (placed[i].kind == QN_JINJA_ABSENT)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s: got too few arguments, want %s", what, builtin->name,
                            builtin->parameters);
  return QN_OK;
}

qn_status qn_jinja_call_builtin(evaluation *e, const qn_jinja_builtin *builtin, const char *what, value self,
                                const arguments *args, value *out) {
  value placed[MAX_PARAMETERS];
  QN_TRY(qn_jinja_charge(e, 0));
  if (*builtin->parameters == '*') {
    if (args->count < (size_t)builtin->required)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s: got too few arguments, want at least %d", what, builtin->name,
                            builtin->required);
  } else {
    QN_TRY(place_arguments(e, builtin, what, args, placed));
  }
  QN_TRY(qn_jinja_deeper(e));  // map and its like call others
  QN_TRY(builtin->call(e, self, placed, args, out));
  e->depth--;
  return QN_OK;
}

// Binds a macro's parameters in the scope that is open.
static qn_status bind_parameters(evaluation *e, const node *macro, const arguments *args) {
  size_t used = 0;
  if (args->count > macro->count)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "macro %.*s: got %zu arguments, want at most %zu", QN_STR_ARGS(macro->text),
                          args->count, macro->count);
  for (size_t i = 0; i < macro->count; i++) {
    qn_str name = macro->items[i].name;
    value v = i < args->count ? args->items[i] : ABSENT_VALUE;
    for (size_t j = 0; j < args->named_count; j++) {
      if (!qn_str_equal(args->names[j], name)) continue;
      v = args->named[j];
      used++;
    }
    if (v.kind == QN_JINJA_ABSENT && macro->items[i].value) QN_TRY(evaluate(e, macro->items[i].value, &v));
    if (v.kind == QN_JINJA_ABSENT)
      QN_TRY(qn_jinja_make_undefined(e, &v, "the parameter '%.*s' was not given", QN_STR_ARGS(name)));
    QN_TRY(set_variable(e, e->scope, name, v));
  }
  if (used < args->named_count)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "macro %.*s: got an argument with a name that it does not have",
                          QN_STR_ARGS(macro->text));
  return QN_OK;
}

// `caller` of a call block; ABSENT.
static qn_status call_macro(evaluation *e, const qn_jinja_macro *macro, const arguments *args, value caller,
                            value *out) {
  scope *before = e->scope;
  QN_TRY(open_scope(e, macro->outer));
  QN_TRY(bind_parameters(e, macro->node, args));
  if (caller.kind != QN_JINJA_ABSENT) QN_TRY(set_variable(e, e->scope, QN_STR("caller"), caller));
  QN_TRY(printed_by(e, macro->node->body, out));
  e->scope = before;
  return QN_OK;
}

qn_status qn_jinja_call_value(evaluation *e, value f, const arguments *args, value *out) {
  QN_TRY(qn_jinja_need_defined(e, f));
  if (f.kind == QN_JINJA_FUNCTION)
    return qn_jinja_call_builtin(e, f.function->builtin, "function", f.function->self, args, out);
  if (f.kind == QN_JINJA_MACRO) return call_macro(e, f.macro, args, ABSENT_VALUE, out);
  if (f.kind == QN_JINJA_LOOP && args->count == 1) return qn_jinja_run_recursive(e, f.loop, args->items[0], out);
  return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to call, want a macro, a function or a method",
                        qn_jinja_kind_name(f));
}

static qn_status evaluate_call(evaluation *e, const node *n, value *out) {
  value f;
  arguments args;
  QN_TRY(evaluate(e, n->a, &f));
  QN_TRY(evaluate_arguments(e, n, &args));
  e->at = n->at;
  return qn_jinja_call_value(e, f, &args, out);
}

// ---- operators

static qn_status compare(evaluation *e, qn_jinja_op op, value a, value b, bool *out) {
  int order = 0;
  switch (op) {
    case OP_EQUAL: return qn_jinja_equal_values(e, a, b, out);
    case OP_UNEQUAL:
      QN_TRY(qn_jinja_equal_values(e, a, b, out));
      *out = !*out;
      return QN_OK;
    case OP_IN: return qn_jinja_contains_value(e, b, a, out);
    case OP_NOT_IN:
      QN_TRY(qn_jinja_contains_value(e, b, a, out));
      *out = !*out;
      return QN_OK;
    default: break;
  }
  QN_TRY(qn_jinja_compare_values(e, a, b, &order));
  *out = op == OP_LESS ? order < 0 : op == OP_LESS_EQUAL ? order <= 0 : op == OP_GREATER ? order > 0 : order >= 0;
  return QN_OK;
}

static qn_status evaluate_comparison(evaluation *e, const node *n, value *out) {
  value left, right;
  bool holds = true;
  QN_TRY(evaluate(e, n->a, &left));
  for (size_t i = 0; holds && i < n->count; i++, left = right) {
    QN_TRY(evaluate(e, n->items[i].value, &right));
    e->at = n->at;
    QN_TRY(compare(e, n->items[i].op, left, right, &holds));
  }
  *out = qn_jinja_bool(holds);
  return QN_OK;
}

static qn_status evaluate_logic(evaluation *e, const node *n, value *out) {
  QN_TRY(evaluate(e, n->a, out));
  if (n->kind == NODE_NOT) {
    *out = qn_jinja_bool(!qn_jinja_is_truthy(*out));
    return QN_OK;
  }
  return qn_jinja_is_truthy(*out) == (n->kind == NODE_AND) ? evaluate(e, n->b, out) : QN_OK;
}

static qn_status evaluate_sign(evaluation *e, const node *n, value *out) {
  value v;
  QN_TRY(evaluate(e, n->a, &v));
  e->at = n->at;
  QN_TRY(qn_jinja_need_defined(e, v));
  if (!qn_jinja_is_number(v))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s behind a sign, want a number", qn_jinja_kind_name(v));
  return qn_jinja_arithmetic(e, n->kind == NODE_NEGATE ? OP_SUBTRACT : OP_ADD, qn_jinja_int(0), v, out);
}

static qn_status evaluate_arithmetic(evaluation *e, const node *n, value *out) {
  value a, b;
  QN_TRY(evaluate(e, n->a, &a));
  QN_TRY(evaluate(e, n->b, &b));
  e->at = n->at;
  return qn_jinja_arithmetic(e, (qn_jinja_op)n->op, a, b, out);
}

static qn_status print_items(evaluation *e, const node *n, qn_buf *out) {
  for (size_t i = 0; i < n->count; i++) {
    value v;
    QN_TRY(evaluate(e, n->items[i].value, &v));
    e->at = n->at;
    QN_TRY(qn_jinja_print_value(e, v, out));
  }
  return QN_OK;
}

static qn_status evaluate_concat(evaluation *e, const node *n, value *out) {
  qn_buf buf;
  qn_buf_init(&buf, e->arena->allocator);
  qn_status status = print_items(e, n, &buf);
  if (status == QN_OK) return qn_jinja_take_buffer(e, &buf, out);
  qn_buf_deinit(&buf);
  return status;
}

static qn_status evaluate_choice(evaluation *e, const node *n, value *out) {
  value condition;
  QN_TRY(evaluate(e, n->b, &condition));
  if (qn_jinja_is_truthy(condition)) return evaluate(e, n->a, out);
  if (n->c) return evaluate(e, n->c, out);
  e->at = n->at;
  return qn_jinja_make_undefined(e, out, "this if has no else, and its condition does not hold");
}

// ---- parts

static qn_status evaluate_list(evaluation *e, const node *n, value *out) {
  value *items;
  QN_TRY(qn_jinja_make_list(e, n->kind == NODE_LIST ? QN_JINJA_LIST : QN_JINJA_TUPLE, n->count, &items, out));
  for (size_t i = 0; i < n->count; i++) QN_TRY(evaluate(e, n->items[i].value, &items[i]));
  return QN_OK;
}

static qn_status evaluate_dict(evaluation *e, const node *n, value *out) {
  QN_TRY(qn_jinja_new_map(e, out));
  for (size_t i = 0; i < n->count; i++) {
    value key, v;
    QN_TRY(evaluate(e, n->items[i].key, &key));
    QN_TRY(evaluate(e, n->items[i].value, &v));
    e->at = n->at;
    QN_TRY(qn_jinja_put_pair(e, out->map, key, v));
  }
  return QN_OK;
}

static qn_status evaluate_part(evaluation *e, const node *n, value *out) {
  value whole, bounds[3] = {ABSENT_VALUE, ABSENT_VALUE, ABSENT_VALUE};
  QN_TRY(evaluate(e, n->a, &whole));
  if (n->kind == NODE_INDEX) QN_TRY(evaluate(e, n->b, &bounds[0]));
  for (size_t i = 0; n->kind == NODE_SLICE && i < 3; i++)
    if (n->items[i].value) QN_TRY(evaluate(e, n->items[i].value, &bounds[i]));
  e->at = n->at;
  switch (n->kind) {
    case NODE_ATTRIBUTE: return qn_jinja_get_attribute(e, whole, n->text, out);
    case NODE_INDEX: return qn_jinja_get_item(e, whole, bounds[0], out);
    default: return qn_jinja_get_slice(e, whole, bounds[0], bounds[1], bounds[2], out);
  }
}

// `input` ABSENT: what n->a gives.
static qn_status apply_filter(evaluation *e, const node *n, value input, value *out) {
  arguments args;
  QN_TRY(qn_jinja_deeper(e));
  if (n->a) QN_TRY(input.kind == QN_JINJA_ABSENT ? evaluate(e, n->a, &input) : apply_filter(e, n->a, input, &input));
  e->depth--;
  QN_TRY(evaluate_arguments(e, n, &args));
  e->at = n->at;
  if (!n->builtin) return qn_jinja_fail_unknown(e->source, n->at, e->diag, "filter", qn_jinja_filters, n->text);
  return qn_jinja_call_builtin(e, n->builtin, "filter", input, &args, out);
}

static qn_status evaluate_test(evaluation *e, const node *n, value *out) {
  value subject;
  arguments args;
  QN_TRY(evaluate(e, n->a, &subject));
  QN_TRY(evaluate_arguments(e, n, &args));
  e->at = n->at;
  if (!n->builtin) return qn_jinja_fail_unknown(e->source, n->at, e->diag, "test", qn_jinja_tests, n->text);
  QN_TRY(qn_jinja_call_builtin(e, n->builtin, "test", subject, &args, out));
  if (n->op) out->boolean = !out->boolean;
  return QN_OK;
}

static qn_status evaluate_kind(evaluation *e, const node *n, value *out) {
  switch (n->kind) {
    case NODE_LITERAL: *out = n->literal; return QN_OK;
    case NODE_NAME: return look_up(e, n->text, out);
    case NODE_LIST:
    case NODE_TUPLE: return evaluate_list(e, n, out);
    case NODE_DICT: return evaluate_dict(e, n, out);
    case NODE_NOT:
    case NODE_AND:
    case NODE_OR: return evaluate_logic(e, n, out);
    case NODE_NEGATE:
    case NODE_PLUS: return evaluate_sign(e, n, out);
    case NODE_ARITHMETIC: return evaluate_arithmetic(e, n, out);
    case NODE_CONCAT: return evaluate_concat(e, n, out);
    case NODE_COMPARE: return evaluate_comparison(e, n, out);
    case NODE_CHOICE: return evaluate_choice(e, n, out);
    case NODE_ATTRIBUTE:
    case NODE_INDEX:
    case NODE_SLICE: return evaluate_part(e, n, out);
    case NODE_CALL: return evaluate_call(e, n, out);
    case NODE_FILTER: return apply_filter(e, n, ABSENT_VALUE, out);
    case NODE_TEST: return evaluate_test(e, n, out);
    default: return qn_jinja_raise(e, QN_ERR_INTERNAL, "got a statement in place of an expression");
  }
}

static qn_status evaluate(evaluation *e, const node *n, value *out) {
  e->at = n->at;
  QN_TRY(qn_jinja_charge(e, 0));
  QN_TRY(qn_jinja_deeper(e));
  QN_TRY(evaluate_kind(e, n, out));
  e->depth--;
  return QN_OK;
}

// ---- statements

static qn_status assign(evaluation *e, const node *n, value v) {
  if (n->count == 1 && n->items[0].key) {
    value target;
    QN_TRY(look_up(e, n->items[0].key->text, &target));
    e->at = n->at;
    QN_TRY(qn_jinja_need_defined(e, target));
    if (target.kind != QN_JINJA_NAMESPACE)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to set an attribute of, want a namespace",
                            qn_jinja_kind_name(target));
    return qn_jinja_put_pair(e, target.map, qn_jinja_text(n->items[0].name), v);
  }
  if (n->count == 1) return set_variable(e, e->scope, n->items[0].name, v);
  const qn_jinja_list *parts;
  QN_TRY(qn_jinja_items_of(e, v, &parts));
  if (parts->count != n->count)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %zu values for %zu variables", parts->count, n->count);
  for (size_t i = 0; i < n->count; i++) {
    if (n->items[i].key)
      return qn_jinja_raise(e, QN_ERR_UNSUPPORTED, "got an attribute among several variables to set");
    QN_TRY(set_variable(e, e->scope, n->items[i].name, parts->items[i]));
  }
  return QN_OK;
}

static qn_status execute_set(evaluation *e, const node *n) {
  value v = ABSENT_VALUE;
  if (n->kind == NODE_SET) {
    QN_TRY(evaluate(e, n->a, &v));
  } else {
    scope *before = e->scope;
    QN_TRY(open_scope(e, before));
    QN_TRY(printed_by(e, n->body, &v));
    e->scope = before;
    if (n->a) QN_TRY(apply_filter(e, n->a, v, &v));
  }
  e->at = n->at;
  return assign(e, n, v);
}

static qn_status execute_if(evaluation *e, const node *n) {
  for (;;) {
    value condition;
    QN_TRY(evaluate(e, n->a, &condition));
    if (qn_jinja_is_truthy(condition)) return execute(e, n->body);
    if (!n->other || n->other->kind != NODE_IF || n->other->next) break;
    n = n->other;
  }
  return execute(e, n->other);
}

// The items of a loop that its condition lets through.
static qn_status choose_items(evaluation *e, const node *n, scope *outside, const qn_jinja_list **in_out) {
  const qn_jinja_list *all = *in_out;
  value *kept, list, holds;
  size_t count = 0;
  if (!n->b) return QN_OK;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, all->count, &kept, &list));
  for (size_t i = 0; i < all->count; i++) {
    QN_TRY(open_scope(e, outside));
    QN_TRY(assign(e, n, all->items[i]));
    QN_TRY(evaluate(e, n->b, &holds));
    if (qn_jinja_is_truthy(holds)) kept[count++] = all->items[i];
  }
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof **in_out, &memory));
  *(qn_jinja_list *)memory = (qn_jinja_list){kept, count};
  *in_out = memory;
  e->scope = outside;
  return QN_OK;
}

static qn_status run_loop(evaluation *e, const node *n, value over, scope *outside, size_t depth) {
  const qn_jinja_list *items;
  void *memory;
  QN_TRY(qn_jinja_items_of(e, over, &items));
  QN_TRY(choose_items(e, n, outside, &items));
  QN_TRY(qn_jinja_take_memory(e, sizeof(struct qn_jinja_loop), &memory));
  struct qn_jinja_loop *loop = memory;
  *loop = (struct qn_jinja_loop){.items = items, .depth = depth, .node = n, .outside = outside};
  for (size_t i = 0; i < items->count; i++) {
    loop->index = i;
    QN_TRY(open_scope(e, outside));
    e->at = n->at;
    QN_TRY(set_variable(e, e->scope, QN_STR("loop"), (value){.kind = QN_JINJA_LOOP, .loop = loop}));
    QN_TRY(assign(e, n, items->items[i]));
    QN_TRY(execute(e, n->body));
    bool stop = e->flow == FLOW_BREAK;
    e->flow = FLOW_ON;
    if (stop) break;
  }
  e->scope = outside;
  return items->count == 0 ? execute(e, n->other) : QN_OK;
}

static qn_status execute_for(evaluation *e, const node *n) {
  value over;
  scope *before = e->scope;
  QN_TRY(evaluate(e, n->a, &over));
  e->at = n->at;
  QN_TRY(run_loop(e, n, over, before, 0));
  e->scope = before;
  return QN_OK;
}

qn_status qn_jinja_run_recursive(evaluation *e, struct qn_jinja_loop *loop, value over, value *out) {
  if (!loop->node->op) return qn_jinja_raise(e, QN_ERR_FORMAT, "loop is called, but its for is not marked recursive");
  qn_buf buf, *printed = begin_printing(e, &buf);
  scope *before = e->scope;
  qn_status status = run_loop(e, loop->node, over, loop->outside, loop->depth + 1);
  e->scope = before;
  return take_printed(e, printed, status, out);
}

static qn_status make_macro(evaluation *e, const node *n, value *out) {
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof(qn_jinja_macro), &memory));
  *(qn_jinja_macro *)memory = (qn_jinja_macro){.node = n, .outer = e->scope};
  *out = (value){.kind = QN_JINJA_MACRO, .macro = memory};
  return QN_OK;
}

static qn_status execute_macro(evaluation *e, const node *n) {
  value macro, f, printed;
  arguments args;
  QN_TRY(make_macro(e, n, &macro));
  if (n->kind == NODE_MACRO) return set_variable(e, e->scope, n->text, macro);
  QN_TRY(evaluate(e, n->a->a, &f));
  QN_TRY(evaluate_arguments(e, n->a, &args));
  e->at = n->at;
  QN_TRY(qn_jinja_need_defined(e, f));
  if (f.kind != QN_JINJA_MACRO)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to call, want a macro", qn_jinja_kind_name(f));
  QN_TRY(call_macro(e, f.macro, &args, macro, &printed));
  return qn_jinja_print_value(e, printed, e->out);
}

static qn_status execute_with(evaluation *e, const node *n) {
  scope *before = e->scope, *inside;
  QN_TRY(open_scope(e, before));
  inside = e->scope;
  for (size_t i = 0; i < n->count; i++) {
    value v;
    e->scope = before;
    QN_TRY(evaluate(e, n->items[i].value, &v));
    QN_TRY(set_variable(e, inside, n->items[i].name, v));
  }
  e->scope = inside;
  QN_TRY(execute(e, n->body));
  e->scope = before;
  return QN_OK;
}

static qn_status execute_filter_block(evaluation *e, const node *n) {
  value v;
  scope *before = e->scope;
  QN_TRY(open_scope(e, before));
  QN_TRY(printed_by(e, n->body, &v));
  e->scope = before;
  QN_TRY(apply_filter(e, n->a, v, &v));
  return qn_jinja_print_value(e, v, e->out);
}

static qn_status execute_print(evaluation *e, const node *n) {
  value v;
  QN_TRY(evaluate(e, n->a, &v));
  e->at = n->at;
  return qn_jinja_print_value(e, v, e->out);
}

static qn_status execute_one(evaluation *e, const node *n) {
  switch (n->kind) {
    case NODE_DATA: return qn_jinja_print_value(e, qn_jinja_text(n->text), e->out);
    case NODE_PRINT: return execute_print(e, n);
    case NODE_IF: return execute_if(e, n);
    case NODE_FOR: return execute_for(e, n);
    case NODE_SET:
    case NODE_SET_BLOCK: return execute_set(e, n);
    case NODE_MACRO:
    case NODE_CALL_BLOCK: return execute_macro(e, n);
    case NODE_FILTER_BLOCK: return execute_filter_block(e, n);
    case NODE_WITH: return execute_with(e, n);
    case NODE_GENERATION: return execute(e, n->body);
    case NODE_BREAK: e->flow = FLOW_BREAK; return QN_OK;
    case NODE_CONTINUE: e->flow = FLOW_CONTINUE; return QN_OK;
    default: return qn_jinja_raise(e, QN_ERR_INTERNAL, "got an expression in place of a statement");
  }
}

// Statements in order, until one jumps.
static qn_status execute(evaluation *e, const node *n) {
  QN_TRY(qn_jinja_deeper(e));
  for (; n && e->flow == FLOW_ON; n = n->next) {
    e->at = n->at;
    QN_TRY(qn_jinja_charge(e, 0));
    QN_TRY(execute_one(e, n));
  }
  e->depth--;
  return QN_OK;
}

// ---- templates

// The text with newlines as \n, without one at its end, as Jinja takes it.
static bool take_source(qn_jinja *jinja, const char *name, qn_str text) {
  char *copy = qn_arena_strndup(&jinja->arena, text.data, text.length);
  jinja->source.name = qn_arena_strdup(&jinja->arena, name);
  if (!copy || !jinja->source.name) return false;
  size_t length = 0;
  for (size_t i = 0; i < text.length; i++) {
    bool cr = text.data[i] == '\r';
    if (cr && i + 1 < text.length && text.data[i + 1] == '\n') i++;
    copy[length++] = cr ? '\n' : text.data[i];
  }
  if (length > 0 && copy[length - 1] == '\n') length--;
  jinja->source.text = (qn_str){copy, length};
  return true;
}

qn_status qn_jinja_parse(const char *name, qn_str text, const qn_allocator *allocator, qn_jinja **out, qn_diag *diag) {
  qn_arena arena;
  qn_jinja_tokens tokens = {0};
  *out = NULL;
  if (text.length > QN_JINJA_MAX_TEXT)
    return qn_fail(diag, QN_ERR_LIMIT, name, "the template has %zu bytes, want at most %u", text.length,
                   QN_JINJA_MAX_TEXT);
  qn_arena_init(&arena, allocator);
  qn_jinja *jinja = QN_ARENA_NEW(&arena, qn_jinja);
  if (!jinja) return qn_fail_nomem(diag, name, "a template");
  jinja->arena = arena;  // which it lies in itself
  qn_status status = take_source(jinja, name, text) ? QN_OK : qn_fail_nomem(diag, name, "a template");
  if (status == QN_OK) status = qn_jinja_lex(&jinja->source, &jinja->arena, &tokens, diag);
  if (status == QN_OK) status = qn_jinja_parse_tokens(jinja, tokens.items, diag);
  if (status == QN_OK) {
    *out = jinja;
  } else {
    qn_jinja_free(jinja);
  }
  return status;
}

void qn_jinja_free(qn_jinja *jinja) {
  if (!jinja) return;
  qn_arena arena = jinja->arena;
  qn_arena_deinit(&arena);
}

qn_status qn_jinja_render(const qn_jinja *jinja, const qn_jinja_map *variables, const qn_jinja_options *options,
                          const qn_allocator *allocator, qn_buf *out, qn_diag *diag) {
  qn_arena arena;
  qn_buf printed;
  scope top = {0};
  qn_arena_init(&arena, allocator);
  qn_buf_init(&printed, allocator);
  evaluation e = {.source = &jinja->source,
                  .variables = variables,
                  .arena = &arena,
                  .out = &printed,
                  .diag = diag,
                  .scope = &top,
                  .steps = options && options->steps ? options->steps : QN_JINJA_STEPS,
                  .bytes = options && options->bytes ? options->bytes : QN_JINJA_BYTES,
                  .now = options ? options->now : 0};
  e.steps_left = e.steps;
  e.bytes_left = e.bytes;
  qn_status status = execute(&e, jinja->body);
  if (status == QN_OK) qn_buf_append(out, qn_buf_text(&printed), printed.length);
  if (status == QN_OK && out->failed) status = qn_jinja_nomem(&e);
  qn_buf_deinit(&printed);
  qn_arena_deinit(&arena);
  return status;
}
