// The process that holds a pod's namespaces while its containers come and go. As the first process of a shared process
// namespace it takes in the orphans.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int signal) {
    (void)signal;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
}

static void stop(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    struct sigaction on_child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
    struct sigaction on_stop = {.sa_handler = stop};
    if (sigaction(SIGCHLD, &on_child, 0) || sigaction(SIGINT, &on_stop, 0) || sigaction(SIGTERM, &on_stop, 0)) {
        return 1;
    }
    for (;;) {
        pause();
    }
}
