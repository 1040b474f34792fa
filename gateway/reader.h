/* reader.h - reads a closed JSON schema: every key has a row, every refusal names its path. */
#pragma once
#include "gateway/api.h"
#include "gateway/body.h"
#include <jansson.h>

struct reader {
    const struct body *body;
    const struct api_context *context;
    struct api_error *error;
    char path[BODY_PATH_MAX]; /* of the value at hand */
};

/* Record why the value at hand is refused. Always returns false. */
bool reader_refuse(struct reader *r, enum status_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Go into a member or an element; the mark is for coming back. */
size_t reader_enter(struct reader *r, const char *key);
size_t reader_enter_index(struct reader *r, size_t index);
void reader_leave(struct reader *r, size_t mark);

/* One key of an object. `into` is what read_object was given; min and max bound numbers, and the
 * bytes of texts. A null counts as a key that is not there. */
struct reader_row {
    const char *key;
    bool (*read)(struct reader *r, const json_t *value, const struct reader_row *row, void *into);
    size_t offset; /* of the field in *into */
    double min, max;
};
/* Refuses what is no object, and keys without a row. */
MUST_CHECK bool reader_object(struct reader *r, const json_t *value, const struct reader_row *rows,
                              size_t n_rows, void *into);

/* For rows; the type of the field stands behind each. */
bool read_bool(struct reader *r, const json_t *value, const struct reader_row *row,
               void *into); /* bool */
bool read_integer(struct reader *r, const json_t *value, const struct reader_row *row,
                  void *into); /* int64_t */
bool read_number(struct reader *r, const json_t *value, const struct reader_row *row,
                 void *into); /* double */
bool read_text(struct reader *r, const json_t *value, const struct reader_row *row,
               void *into); /* struct span */
/* Checked and let go. */
bool read_false(struct reader *r, const json_t *value, const struct reader_row *row, void *into);
bool read_zero(struct reader *r, const json_t *value, const struct reader_row *row, void *into);
bool read_empty(struct reader *r, const json_t *value, const struct reader_row *row, void *into);
bool read_nothing(struct reader *r, const json_t *value, const struct reader_row *row, void *into);

/* A string value as text, whatever it stands for in the skeleton; refuses all else. */
MUST_CHECK bool reader_text(struct reader *r, const json_t *value, struct span *out);
/* The same, one of these words, which stand apart by blanks. */
MUST_CHECK bool reader_word(struct reader *r, const json_t *value, const char *words,
                            struct span *out);
