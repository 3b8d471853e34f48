/* Keeps N streams of server-sent events going and counts the events that come out.
 *
 *     sse_client PORT STREAMS SECONDS EXPECTED PATH BODY
 *
 * Each stream is a POST of BODY over its own kept connection to 127.0.0.1, asked again as soon as it is answered. An answer must
 * have status 200, be chunked and hold EXPECTED lines of data; anything else is an error, which ends that connection.
 * Prints one line: the events, the complete answers and the errors seen, and the seconds it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_LIMIT = 8192, READ = 64 * 1024, BATCH = 256 };
enum state { HEAD, SIZE, SIZE_END, DATA, DATA_END, LAST_LINE };

struct stream {
    int fd;
    enum state state;
    char head[HEAD_LIMIT + 1];
    size_t filled; /* of the head, or of the last line */
    size_t left;   /* of the chunk */
    int matched;   /* characters of "data:" */
    long events;   /* in this answer */
};

static struct sockaddr_in address;
static char *request;
static size_t request_length;
static long expected, events, answers, errors;
static int poller;

static void fail(const char *what) {
    fprintf(stderr, "sse client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static bool ask(struct stream *s) {
    s->state = HEAD;
    s->filled = s->left = 0;
    s->matched = 0;
    s->events = 0;
    /* The request fits the empty buffer of a socket. */
    return write(s->fd, request, request_length) == (ssize_t)request_length;
}

static void count(struct stream *s, const char *data, size_t length) {
    static const char pattern[] = "data:";
    for (size_t i = 0; i < length; i++) {
        if (data[i] == pattern[s->matched]) {
            if (!pattern[++s->matched]) {
                s->matched = 0;
                s->events++;
                events++;
            }
        } else {
            s->matched = data[i] == pattern[0];
        }
    }
}

static int hexadecimal(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Take one byte of what is not an event's; false when it is not what was expected. */
static bool frame(struct stream *s, char byte) {
    switch (s->state) {
    case HEAD:
        if (s->filled >= HEAD_LIMIT) return false;
        s->head[s->filled++] = byte;
        if (s->filled < 4 || memcmp(s->head + s->filled - 4, "\r\n\r\n", 4)) return true;
        s->head[s->filled] = '\0';
        if (strncmp(s->head, "HTTP/1.1 200", 12) || !strcasestr(s->head, "\r\ntransfer-encoding: chunked")) return false;
        s->state = SIZE;
        return true;
    case SIZE:
        if (byte == '\r') {
            s->state = SIZE_END;
            return true;
        }
        if (hexadecimal(byte) < 0 || s->left > 1 << 26) return false;
        s->left = s->left * 16 + (size_t)hexadecimal(byte);
        return true;
    case SIZE_END:
        s->state = s->left ? DATA : LAST_LINE;
        s->filled = 0;
        return byte == '\n';
    case DATA_END:
        if (byte == '\n') s->state = SIZE;
        return byte == '\n' || byte == '\r';
    case LAST_LINE:
        if (byte != '\n') return byte == '\r';
        answers++;
        return s->events == expected && ask(s);
    default:
        return false;
    }
}

static bool understand(struct stream *s, const char *data, size_t length) {
    for (size_t i = 0; i < length;) {
        if (s->state != DATA) {
            if (!frame(s, data[i++])) return false;
            continue;
        }
        size_t part = length - i < s->left ? length - i : s->left;
        count(s, data + i, part);
        i += part;
        s->left -= part;
        if (!s->left) s->state = DATA_END;
    }
    return true;
}

static void start(struct stream *s) {
    int yes = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0) fail("socket");
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &wanted)) fail("epoll_ctl");
    if (!ask(s)) fail("write");
}

int main(int arguments, char **words) {
    if (arguments != 7) {
        fprintf(stderr, "usage: sse_client PORT STREAMS SECONDS EXPECTED PATH BODY\n");
        return 2;
    }
    long count_of_streams = atol(words[2]), alive = count_of_streams;
    double seconds = atof(words[3]);
    expected = atol(words[4]);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int length = asprintf(&request,
                          "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                          words[5], strlen(words[6]), words[6]);
    struct stream *all = calloc((size_t)count_of_streams, sizeof *all);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (length < 0 || !all || poller < 0) fail("start");
    request_length = (size_t)length;
    signal(SIGPIPE, SIG_IGN);

    double began = now(), until = began + seconds;
    for (long i = 0; i < count_of_streams; i++) start(&all[i]);
    static char data[READ];
    struct epoll_event ready[BATCH];
    double time;
    while (alive && (time = now()) < until) {
        int found = epoll_wait(poller, ready, BATCH, (int)((until - time) * 1000) + 1);
        if (found < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < found; i++) {
            struct stream *s = ready[i].data.ptr;
            ssize_t got = read(s->fd, data, sizeof data);
            if (got > 0 && understand(s, data, (size_t)got)) continue;
            errors++;
            alive--;
            close(s->fd);
        }
    }
    printf("%ld events %ld answers %ld errors %.6f seconds\n", events, answers, errors, now() - began);
    return 0;
}
