// Load for scripts/bench_router: sends prepared HTTP requests over keep-alive connections and reads every answer whole.
// Usage: load PORT CONNECTIONS SECONDS RATE FRAMES REQUESTS DUMP
//   RATE      requests a second over all connections, 0: each connection sends as soon as it is free
//   FRAMES    events that a streamed answer has at least, 0: a plain answer
//   REQUESTS  file of requests, each with its length before it (32 bits, little endian), used in turn
//   DUMP      file that gets the first bodies (up to 8 MB), one length before each; "-" for none
// Prints one JSON object. Answers that are late, cut, not 200 or too short count as errors.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 65536, READ_BYTES = 262144, SAMPLES = 4000000, DUMP_BYTES = 8 << 20 };
enum Part { HEAD, SIZE, DATA, DATA_END, TRAILER, LENGTH };

typedef struct {
    int fd, busy, status, frames, newline, first_seen;
    enum Part part;
    char head[HEAD_BYTES];
    size_t head_used, left;
    char size_line[64];
    size_t size_used;
    uint64_t sent_at;
    float first_us;
    char *body;
    size_t body_used, body_room;
    const char *out;
    size_t out_left;
} Conn;

static struct sockaddr_in address;
static char *requests;
static size_t requests_size, next_request;
static FILE *dump;
static size_t dumped;
static int wanted_frames, running = 1, in_flight;
static uint64_t done, errors, total_frames, total_bytes;
static float *first_us, *whole_us;
static char first_error[512];
static int poller;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void connect_to(Conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror("connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void push(Conn *c) {
    while (c->out_left) {
        ssize_t n = write(c->fd, c->out, c->out_left);
        if (n <= 0) break;
        c->out += n;
        c->out_left -= (size_t)n;
    }
    struct epoll_event event = {.events = EPOLLIN | (c->out_left ? EPOLLOUT : 0), .data.ptr = c};
    if (c->out_left) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void ask(Conn *c) {
    uint32_t size;
    if (next_request >= requests_size) next_request = 0;
    memcpy(&size, requests + next_request, 4);
    c->out = requests + next_request + 4;
    c->out_left = size;
    next_request += 4 + size;
    c->busy = 1, c->part = HEAD, c->head_used = 0, c->frames = 0, c->newline = 0, c->body_used = 0, c->first_seen = 0;
    c->sent_at = now_us();
    in_flight++;
    push(c);
}

static void fail(Conn *c, const char *why) {
    if (!errors) snprintf(first_error, sizeof first_error, "%s (status %d): %.300s", why, c->status, c->body_used ? c->body : "");
    errors++;
    in_flight--;
    c->busy = 0;
    close(c->fd);
    connect_to(c);
}

static void take_body(Conn *c, const char *data, size_t size) {
    if (!c->first_seen) {
        c->first_seen = 1;
        c->first_us = (float)(now_us() - c->sent_at);
    }
    total_bytes += size;
    for (const char *p = data, *end = data + size; p < end;) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        if (!line) { c->newline = 0; break; }
        if (line != p) c->newline = 0;
        if (++c->newline == 2) c->frames++, c->newline = 0;
        p = line + 1;
    }
    if ((dump && dumped < DUMP_BYTES) || c->status != 200) {
        if (c->body_used + size + 1 > c->body_room) {
            c->body_room = (c->body_used + size + 1) * 2;
            c->body = realloc(c->body, c->body_room);
        }
        memcpy(c->body + c->body_used, data, size);
        c->body_used += size;
        c->body[c->body_used] = 0;
    }
}

static void finish(Conn *c, int closed_loop) {
    if (c->status != 200 || (wanted_frames && c->frames < wanted_frames)) {
        fail(c, c->status != 200 ? "not 200" : "too few events");
    } else {
        if (done < SAMPLES) first_us[done] = c->first_us, whole_us[done] = (float)(now_us() - c->sent_at);
        done++;
        total_frames += (uint64_t)c->frames;
        in_flight--;
        c->busy = 0;
        if (dump && dumped < DUMP_BYTES && c->body_used) {
            uint32_t size = (uint32_t)c->body_used;
            fwrite(&size, 4, 1, dump);
            fwrite(c->body, 1, size, dump);
            dumped += size + 4;
        }
    }
    if (closed_loop && running) ask(c);
}

static int read_head(Conn *c) {
    char *end = memmem(c->head, c->head_used, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    c->status = atoi(c->head + 9);
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->part = SIZE, c->size_used = 0;
    else if (length) c->part = LENGTH, c->left = (size_t)atol(length + 17);
    else return -1;
    return (int)(end + 4 - c->head);
}

static void take(Conn *c, const char *data, size_t size, int closed_loop) {
    while (size && c->busy) {
        if (c->part == HEAD) {
            size_t before = c->head_used, part = size < HEAD_BYTES - 1 - before ? size : HEAD_BYTES - 1 - before;
            memcpy(c->head + before, data, part);
            c->head_used += part;
            int used = read_head(c);
            if (used < 0 || (!used && c->head_used == HEAD_BYTES - 1)) { fail(c, "bad head"); return; }
            size_t eaten = used ? (size_t)used - before : part;
            data += eaten, size -= eaten;
            if (used && c->part == LENGTH && !c->left) finish(c, closed_loop);
        } else if (c->part == SIZE || c->part == TRAILER) {
            const char *line = memchr(data, '\n', size);
            size_t part = line ? (size_t)(line + 1 - data) : size;
            if (c->size_used + part >= sizeof c->size_line) { fail(c, "bad chunk"); return; }
            memcpy(c->size_line + c->size_used, data, part);
            c->size_used += part;
            c->size_line[c->size_used] = 0;
            data += part, size -= part;
            if (!line) continue;
            if (c->part == TRAILER) { finish(c, closed_loop); continue; }
            c->left = strtoul(c->size_line, NULL, 16);
            c->size_used = 0;
            c->part = c->left ? DATA : TRAILER;
        } else if (c->part == DATA_END) {
            size_t part = size < c->left ? size : c->left;
            data += part, size -= part, c->left -= part;
            if (!c->left) c->part = SIZE, c->size_used = 0;
        } else {
            size_t part = size < c->left ? size : c->left;
            take_body(c, data, part);
            data += part, size -= part, c->left -= part;
            if (c->left) continue;
            if (c->part == LENGTH) finish(c, closed_loop);
            else c->part = DATA_END, c->left = 2;
        }
    }
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static float quantile(float *values, uint64_t count, double share) {
    if (count > SAMPLES) count = SAMPLES;
    if (!count) return 0;
    return values[(uint64_t)((double)(count - 1) * share)];
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(1); }
    fseek(file, 0, SEEK_END);
    requests_size = (size_t)ftell(file);
    rewind(file);
    requests = malloc(requests_size);
    if (fread(requests, 1, requests_size, file) != requests_size) exit(1);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 8) { fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE FRAMES REQUESTS DUMP\n"); return 2; }
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]), rate = atof(argv[4]);
    wanted_frames = atoi(argv[5]);
    read_requests(argv[6]);
    if (strcmp(argv[7], "-") != 0) dump = fopen(argv[7], "wb");
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    first_us = malloc(SAMPLES * sizeof *first_us);
    whole_us = malloc(SAMPLES * sizeof *whole_us);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    Conn *conns = calloc((size_t)count, sizeof *conns);
    for (int i = 0; i < count; i++) connect_to(&conns[i]);
    int closed_loop = rate <= 0;
    uint64_t began = now_us(), ends = began + (uint64_t)(seconds * 1e6), patience = ends + 30000000u, started = 0, missed = 0;
    if (closed_loop) for (int i = 0; i < count; i++) ask(&conns[i]);
    static char buffer[READ_BYTES];
    struct epoll_event events[256];
    int turn = 0;
    while (running || in_flight) {
        uint64_t now = now_us();
        if (now >= ends) running = 0;
        if (now >= patience) break;
        while (!closed_loop && running && (double)started < (double)(now - began) / 1e6 * rate) {
            int tries = 0;
            while (tries < count && conns[turn].busy) turn = (turn + 1) % count, tries++;
            if (tries == count) missed++; else ask(&conns[turn]);
            started++;
        }
        int n = epoll_wait(poller, events, 256, closed_loop ? 100 : 1);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                push(c);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
                if (!c->out_left) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t size = read(c->fd, buffer, sizeof buffer);
            if (size > 0) take(c, buffer, (size_t)size, closed_loop);
            else if (size == 0 || errno != EAGAIN) {
                if (c->busy) fail(c, "connection closed");
                else { close(c->fd); connect_to(c); }
                if (closed_loop && running && !c->busy) ask(c);
            }
        }
    }
    errors += (uint64_t)in_flight;
    double took = (double)(now_us() - began) / 1e6;
    uint64_t kept = done < SAMPLES ? done : SAMPLES;
    qsort(first_us, kept, sizeof(float), by_size);
    qsort(whole_us, kept, sizeof(float), by_size);
    if (dump) fclose(dump);
    for (char *p = first_error; *p; p++) if (*p == '"' || *p == '\\' || *p < ' ') *p = ' ';
    printf("{\"done\":%lu,\"errors\":%lu,\"missed\":%lu,\"seconds\":%.4f,\"frames\":%lu,\"bytes\":%lu,"
           "\"firstP50\":%.1f,\"firstP99\":%.1f,\"wholeP50\":%.1f,\"wholeP99\":%.1f,\"firstError\":\"%s\"}\n",
           done, errors, missed, took, total_frames, total_bytes, quantile(first_us, done, .5), quantile(first_us, done, .99),
           quantile(whole_us, done, .5), quantile(whole_us, done, .99), first_error);
    return 0;
}
