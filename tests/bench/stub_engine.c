/* An engine that answers at once, so that a benchmark of what stands in front of it measures nothing else.
 *
 * One thread, epoll, HTTP/1.1 with kept connections. Takes llama-server's flags and heeds --host (a path is a unix
 * socket), --port and --alias. GET is answered with a healthy status. POST is answered with about 1 KiB of a chat
 * completion or, if the body has "stream":true, with 100 events of about 250 bytes and [DONE], one write for each; streams
 * take turns, as tokens of parallel sequences do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { EVENTS = 100, REQUEST_LIMIT = 64 * 1024, CONTENT = 770, BATCH = 256 };

struct piece {
    char text[4096];
    size_t length;
};

struct connection {
    int fd;
    char input[REQUEST_LIMIT];
    size_t filled;
    size_t request; /* bytes of `input` that are being answered; 0: none */
    const char *output;
    size_t unwritten;
    int sent; /* parts of a stream that were begun; -1: the answer is no stream */
    bool writable;
    bool streaming; /* linked into the list of streams */
    struct connection *previous, *next;
};

static struct piece healthy, refused, completion, stream_head, event, stream_end;
static struct connection *streams;
static int poller;

static void fail(const char *what) {
    fprintf(stderr, "stub engine: %s: %s\n", what, strerror(errno));
    exit(1);
}

__attribute__((format(printf, 2, 3))) static void put(struct piece *piece, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    piece->length += (size_t)vsnprintf(piece->text + piece->length, sizeof piece->text - piece->length, format, arguments);
    va_end(arguments);
    if (piece->length >= sizeof piece->text) {
        fprintf(stderr, "stub engine: the alias is too long\n");
        exit(2);
    }
}

static void put_answer(struct piece *piece, const char *status, const struct piece *body) {
    put(piece, "HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %zu\r\n\r\n%s", status, body->length,
        body->text);
}

static void put_chunk(struct piece *piece, const struct piece *body) {
    put(piece, "%zx\r\n%s\r\n", body->length, body->text);
}

static void prepare(const char *alias) {
    struct piece body = {0}, delta = {0}, done = {0}, status = {0}, error = {0};
    char content[CONTENT + 1];
    static const char words[] = "An answer of about a kilobyte, as short chats have. ";
    for (size_t i = 0; i < CONTENT; i++) content[i] = words[i % (sizeof words - 1)];
    content[CONTENT] = '\0';

    put(&status, "{\"status\":\"ok\"}");
    put_answer(&healthy, "200 OK", &status);
    put(&error, "{\"error\":{\"message\":\"a request needs a Content-Length\",\"type\":\"invalid_request_error\"}}");
    put_answer(&refused, "411 Length Required", &error);
    put(&body,
        "{\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":16,\"completion_tokens\":140,\"total_tokens\":156}}",
        alias, content);
    put_answer(&completion, "200 OK", &body);

    put(&stream_head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    put(&delta,
        "data: {\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[{"
        "\"index\":0,\"delta\":{\"content\":\" %.60s\"},\"finish_reason\":null}]}\n\n",
        alias, content);
    put_chunk(&event, &delta);
    put(&done, "data: [DONE]\n\n");
    put_chunk(&stream_end, &done);
    put(&stream_end, "0\r\n\r\n");
}

static void link_stream(struct connection *c) {
    if (c->streaming) return;
    c->streaming = true;
    c->previous = NULL;
    c->next = streams;
    if (streams) streams->previous = c;
    streams = c;
}

static void unlink_stream(struct connection *c) {
    if (!c->streaming) return;
    c->streaming = false;
    if (c->previous) c->previous->next = c->next;
    else streams = c->next;
    if (c->next) c->next->previous = c->previous;
}

static void end(struct connection *c) {
    unlink_stream(c);
    close(c->fd);
    free(c);
}

/* The length of the head and the body of the first request in the input, or 0 if more must be read. */
static size_t request_length(struct connection *c, size_t *body, bool *sized) {
    char *stop = memmem(c->input, c->filled, "\r\n\r\n", 4);
    if (!stop) return 0;
    size_t head = (size_t)(stop - c->input) + 4, length = 0;
    *sized = false;
    for (char *line = c->input; line < stop;) {
        char *line_end = memmem(line, (size_t)(stop + 2 - line), "\r\n", 2);
        if (!strncasecmp(line, "content-length:", 15)) {
            length = strtoul(line + 15, NULL, 10);
            *sized = true;
        }
        line = line_end + 2;
    }
    *body = head;
    return length <= REQUEST_LIMIT && head + length <= c->filled ? head + length : 0;
}

static void begin(struct connection *c, const struct piece *piece) {
    c->output = piece->text;
    c->unwritten = piece->length;
}

/* Start to answer the first request in the input, if it is complete. */
static void understand(struct connection *c) {
    size_t body = 0;
    bool sized = false;
    c->request = request_length(c, &body, &sized);
    if (!c->request) return;
    c->sent = -1;
    if (!memcmp(c->input, "GET ", 4)) {
        begin(c, &healthy);
    } else if (!sized) {
        begin(c, &refused);
    } else if (memmem(c->input + body, c->request - body, "\"stream\":true", 13)) {
        c->sent = 0;
        begin(c, &stream_head);
    } else {
        begin(c, &completion);
    }
}

/* Write one piece, and what follows it unless it is a stream's; false when the connection has ended. */
static bool answer(struct connection *c) {
    while (c->request && c->writable) {
        ssize_t written = write(c->fd, c->output, c->unwritten);
        if (written < 0 && errno != EAGAIN) return false;
        if (written >= 0) {
            c->output += written;
            c->unwritten -= (size_t)written;
        }
        if (c->unwritten) {
            c->writable = false; /* epoll tells when there is room again */
        } else if (c->sent >= 0 && c->sent <= EVENTS) {
            begin(c, c->sent++ < EVENTS ? &event : &stream_end);
            link_stream(c);
            return true;
        } else {
            unlink_stream(c);
            c->filled -= c->request;
            memmove(c->input, c->input + c->request, c->filled);
            understand(c);
        }
    }
    if (!c->writable) unlink_stream(c);
    return true;
}

/* Take what the client sent; false when the connection has ended. */
static bool take(struct connection *c) {
    while (c->filled < REQUEST_LIMIT) {
        ssize_t got = read(c->fd, c->input + c->filled, REQUEST_LIMIT - c->filled);
        if (got < 0 && errno == EAGAIN) return true;
        if (got <= 0) return false;
        c->filled += (size_t)got;
        if (!c->request) understand(c);
    }
    return c->request != 0; /* a request that does not fit will never be complete */
}

static void welcome(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) fail("calloc");
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* a unix socket has no such thing, and no harm is done */
        c->fd = fd;
        c->writable = true;
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted)) fail("epoll_ctl");
    }
}

static int listen_at(const char *host, int port) {
    bool local = host[0] == '/';
    int listener = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) fail("socket");
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (local) {
        if (strlen(host) >= sizeof path.sun_path) {
            errno = ENAMETOOLONG;
            fail(host);
        }
        strcpy(path.sun_path, host);
        if (bind(listener, (struct sockaddr *)&path, sizeof path)) fail(host);
    } else {
        int yes = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
            errno = EINVAL;
            fail(host);
        }
        if (bind(listener, (struct sockaddr *)&address, sizeof address)) fail(host);
    }
    if (listen(listener, 1024)) fail("listen");
    return listener;
}

int main(int count, char **words) {
    const char *host = "127.0.0.1", *alias = "stub";
    int port = 8080;
    for (int i = 1; i < count; i++) {
        bool followed = i + 1 < count;
        if (!strcmp(words[i], "--version")) {
            puts("version: 0 (stub)");
            return 0;
        }
        if (followed && !strcmp(words[i], "--host")) host = words[++i];
        else if (followed && !strcmp(words[i], "--port")) port = atoi(words[++i]);
        else if (followed && (!strcmp(words[i], "--alias") || !strcmp(words[i], "-a"))) alias = words[++i];
    }
    if (strpbrk(alias, "\"\\\n")) {
        fprintf(stderr, "stub engine: the alias cannot be written as JSON\n");
        return 2;
    }
    prepare(alias);
    signal(SIGPIPE, SIG_IGN);

    int listener = listen_at(host, port);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll_create1");
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted)) fail("epoll_ctl");

    struct epoll_event ready[BATCH];
    for (;;) {
        int found = epoll_wait(poller, ready, BATCH, streams ? 0 : -1);
        if (found < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) {
                welcome(listener);
                continue;
            }
            if (ready[i].events & EPOLLOUT) c->writable = true;
            if (ready[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) || !take(c) || (!c->streaming && !answer(c))) end(c);
        }
        for (struct connection *c = streams, *next; c; c = next) {
            next = c->next;
            if (!answer(c)) end(c);
        }
    }
}
