/* The compiled form of edgeseg/decode.py, which explains the method: the same operations on the same numbers
 * in the same order, so that both give the same class map. Compiled without contraction of a * b + c for that
 * reason. Plain C without Python's headers, so that one file serves every version of Python. */

#include <stdint.h>
#include <string.h>

#define MAX_CLASSES 255
#define LANES 4 /* one register of the oldest x86-64 and ARMv8 */
#define TILE 4

typedef float Floats __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(LANES * sizeof(int32_t))));

/* Where the output pixels of one axis fall between its samples; see _Axis in decode.py. */
typedef struct {
    int32_t samples, size, cells;
    const int32_t *low, *high; /* [cells] */
    const int32_t *start;      /* [cells + 1], output pixels of cell i: start[i] to start[i + 1] - 1 */
    const float *weight;       /* [size + LANES - 1], of `high` at each output pixel */
} Axis;

/* Raised, here and in decode_compiled.py, with every change of what this file takes or gives: an editable install
 * keeps its library until it is installed again. */
int32_t edgeseg_decode_version(void) { return 1; }

/* Where `value` is larger: `value` into `best` and `c` into `chosen`. */
static inline void keep_larger(Floats *best, Ints *chosen, Floats value, int32_t c) {
    Ints wins = value > *best;
    *chosen = (wins & c) | (~wins & *chosen);
    *best = (Floats)((wins & (Ints)value) | (~wins & (Ints)*best));
}

static void find_winners(const float *logits, int classes, int64_t n, uint8_t *winners) {
    int64_t at = 0;
    for (; at + TILE * LANES <= n; at += TILE * LANES) {
        Floats best[TILE], value;
        Ints chosen[TILE] = {{0}};
        memcpy(best, logits + at, sizeof best);
        for (int c = 1; c < classes; c++)
            for (int i = 0; i < TILE; i++) {
                memcpy(&value, logits + c * n + at + i * LANES, sizeof value);
                keep_larger(&best[i], &chosen[i], value, c);
            }
        for (int i = 0; i < TILE * LANES; i++) winners[at + i] = (uint8_t)chosen[i / LANES][i % LANES];
    }
    for (; at < n; at++) {
        int chosen = 0;
        for (int c = 1; c < classes; c++)
            if (logits[c * n + at] > logits[chosen * n + at]) chosen = c;
        winners[at] = (uint8_t)chosen;
    }
}

/* The classes that can win somewhere in a cell, ascending, with their logits at its corners: how many. */
static int find_candidates(const float *logits, int classes, int64_t n, const int64_t corner[4],
                           const uint8_t won[4], int prune, int32_t *id, float (*at)[4]) {
    int rival[2] = {won[0], won[1] != won[0] ? won[1] : won[2] != won[0] ? won[2] : won[3]};
    float limit[2][4];
    for (int r = 0; r < 2; r++)
        for (int k = 0; k < 4; k++) limit[r][k] = logits[rival[r] * n + corner[k]];
    int count = 0;
    for (int c = 0; c < classes; c++) {
        float value[4];
        for (int k = 0; k < 4; k++) value[k] = logits[c * n + corner[k]];
        int holds[2] = {0, 0};
        for (int r = 0; r < 2; r++)
            for (int k = 0; k < 4; k++) holds[r] |= value[k] >= limit[r][k];
        if (prune && !(holds[0] & holds[1])) continue;
        memcpy(at[count], value, sizeof value);
        id[count++] = c;
    }
    return count;
}

static void fill_cell(const Axis *rows, const Axis *cols, int i, int j, int count, const int32_t *id,
                      const float (*at)[4], uint8_t *mask) {
    int x_end = cols->start[j + 1];
    for (int y = rows->start[i]; y < rows->start[i + 1]; y++) {
        float left[MAX_CLASSES], right[MAX_CLASSES];
        float down = rows->weight[y];
        for (int s = 0; s < count; s++) {
            left[s] = (at[s][2] - at[s][0]) * down + at[s][0];
            right[s] = (at[s][3] - at[s][1]) * down + at[s][1] - left[s];
        }
        for (int x = cols->start[j]; x < x_end; x += LANES) {
            Floats across;
            memcpy(&across, cols->weight + x, sizeof across);
            Floats best = right[0] * across + left[0];
            Ints chosen = {0};
            chosen += id[0];
            for (int s = 1; s < count; s++) {
                Floats value = right[s] * across + left[s];
                keep_larger(&best, &chosen, value, id[s]);
            }
            uint8_t pixels[LANES];
            for (int k = 0; k < LANES; k++) pixels[k] = (uint8_t)chosen[k];
            memcpy(mask + (int64_t)y * cols->size + x, pixels, x_end - x < LANES ? x_end - x : LANES);
        }
    }
}

/* logits: [classes, rows->samples, cols->samples], finite. winners: room for one class map of that size.
 * mask: [rows->size, cols->size], written. */
void edgeseg_decode(const float *logits, int32_t classes, int32_t prune, const Axis *rows, const Axis *cols,
                    uint8_t *winners, uint8_t *mask) {
    int64_t n = (int64_t)rows->samples * cols->samples;
    int32_t id[MAX_CLASSES];
    float at[MAX_CLASSES][4];
    find_winners(logits, classes, n, winners);
    for (int i = 0; i < rows->cells; i++) {
        int64_t top = (int64_t)rows->low[i] * cols->samples, bottom = (int64_t)rows->high[i] * cols->samples;
        uint8_t *line = mask + (int64_t)rows->start[i] * cols->size;
        for (int j = 0, next; j < cols->cells; j = next) {
            uint8_t winner = winners[top + cols->low[j]];
            for (next = j + 1; next < cols->cells && winners[top + cols->low[next]] == winner;) next++;
            memset(line + cols->start[j], winner, cols->start[next] - cols->start[j]);
        }
        for (int y = rows->start[i] + 1; y < rows->start[i + 1]; y++)
            memcpy(mask + (int64_t)y * cols->size, line, cols->size);
        for (int j = 0; j < cols->cells; j++) {
            int64_t corner[4] = {top + cols->low[j], top + cols->high[j], bottom + cols->low[j], bottom + cols->high[j]};
            uint8_t won[4];
            for (int k = 0; k < 4; k++) won[k] = winners[corner[k]];
            if (won[0] == won[1] && won[0] == won[2] && won[0] == won[3]) continue;
            int count = find_candidates(logits, classes, n, corner, won, prune, id, at);
            fill_cell(rows, cols, i, j, count, id, (const float(*)[4])at, mask);
        }
    }
}
