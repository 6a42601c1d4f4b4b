// An OpenAI engine without a model, for the peers of scripts/bench_router: fixed tokens, one write for each.
// Usage: engine PORT   The request says how many tokens (max_tokens) and how many microseconds apart (seed; 0: at once).
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

enum { INPUT_BYTES = 262144, CONNS = 4096 };

typedef struct {
    int fd, streaming, sent, listed, tokens;
    uint64_t next_at, pace_us;
    char *input;
    size_t used;
} Conn;

static Conn conns[CONNS];
static int active[CONNS], active_count, paced;
static char frames[8][512], plain[16384], json_ok[512];
static size_t frame_sizes[8], plain_size, json_size;
static const char stream_head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
static const char done[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void prepare(void) {
    char body[8192], text[4096] = "";
    for (int i = 0; i < 8; i++) {
        int size = snprintf(body, sizeof body, "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", i);
        frame_sizes[i] = (size_t)snprintf(frames[i], sizeof frames[i], "%x\r\n%s\r\n", size, body);
    }
    for (int i = 0; i < 16; i++) strcat(text, " word1");
    int size = snprintf(body, sizeof body, "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":256,\"completion_tokens\":16,\"total_tokens\":272}}", text);
    plain_size = (size_t)snprintf(plain, sizeof plain, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
    size = snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"owned_by\":\"bench\"}],\"model_path\":\"m\",\"served_model_name\":\"m\",\"status\":\"ok\"}");
    json_size = (size_t)snprintf(json_ok, sizeof json_ok, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body);
}

static void drop(Conn *c) {
    close(c->fd);
    c->fd = -1, c->streaming = 0, c->used = 0;
}

static void put(Conn *c, const char *data, size_t size) {
    while (size) {
        ssize_t n = write(c->fd, data, size);
        if (n < 0 && errno == EAGAIN) { usleep(50); continue; }
        if (n < 0) return;
        data += n, size -= (size_t)n;
    }
}

static long number_of(const char *body, size_t size, const char *name) {
    const char *found = memmem(body, size, name, strlen(name));
    return found ? atol(found + strlen(name)) : 0;
}

static void answer(Conn *c, const char *head, const char *body, size_t size) {
    if (strncmp(head, "POST", 4) != 0) { put(c, json_ok, json_size); return; }
    if (!memmem(body, size, "\"stream\":true", 13) && !memmem(body, size, "\"stream\": true", 14)) { put(c, plain, plain_size); return; }
    put(c, stream_head, sizeof stream_head - 1);
    c->tokens = (int)number_of(body, size, "\"max_tokens\":"), c->pace_us = (uint64_t)number_of(body, size, "\"seed\":");
    // sglang-router renames the field.
    if (c->tokens <= 0) c->tokens = (int)number_of(body, size, "\"max_completion_tokens\":");
    if (c->tokens <= 0) c->tokens = 16;
    paced = c->pace_us != 0;
    c->streaming = 1, c->sent = 0, c->next_at = now_us() + c->pace_us;
    if (!c->listed) c->listed = 1, active[active_count++] = (int)(c - conns);
}

static void take(Conn *c) {
    ssize_t n = read(c->fd, c->input + c->used, INPUT_BYTES - c->used - 1);
    if (n <= 0) { drop(c); return; }
    c->used += (size_t)n;
    for (;;) {
        c->input[c->used] = 0;
        char *end = memmem(c->input, c->used, "\r\n\r\n", 4);
        if (!end) return;
        char *length = strcasestr(c->input, "\r\ncontent-length:");
        size_t head = (size_t)(end + 4 - c->input), body = length && length < end ? (size_t)atol(length + 17) : 0;
        if (c->used < head + body) return;
        answer(c, c->input, c->input + head, body);
        memmove(c->input, c->input + head + body, c->used - head - body);
        c->used -= head + body;
    }
}

static void stream(uint64_t now) {
    for (int i = 0; i < active_count; i++) {
        Conn *c = &conns[active[i]];
        if (c->streaming && c->next_at <= now) {
            if (c->sent < c->tokens) put(c, frames[c->sent & 7], frame_sizes[c->sent & 7]);
            c->sent++;
            c->next_at += c->pace_us;
            if (c->sent == c->tokens) put(c, done, sizeof done - 1), c->streaming = 0;
        }
        if (!c->streaming) c->listed = 0, active[i--] = active[--active_count];
    }
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: engine PORT\n"); return 2; }
    prepare();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) { perror("bind"); return 1; }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (int i = 0; i < CONNS; i++) conns[i].fd = -1;
    for (;;) {
        int n = epoll_wait(poller, events, 256, active_count ? (paced ? 1 : 0) : 1000);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) { take(events[i].data.ptr); continue; }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            Conn *c = conns;
            while (c < conns + CONNS && c->fd >= 0) c++;
            if (fd < 0 || c == conns + CONNS) { close(fd); continue; }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            c->fd = fd, c->used = 0, c->streaming = 0;
            if (!c->input) c->input = malloc(INPUT_BYTES);
            event.data.ptr = c;
            epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        }
        if (active_count) stream(now_us());
    }
}
