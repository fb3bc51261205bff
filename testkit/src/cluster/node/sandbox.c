/* Holds the namespaces of a pod open until it is told to end; the first process of every pod. */
#include <signal.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    /* A process that nobody waits for is collected by the kernel. */
    signal(SIGCHLD, SIG_IGN);
    for (;;)
        pause();
}
