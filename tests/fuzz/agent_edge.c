/* Linked before and after the agent's files: what lies between is all that the agent remembers. */
char EDGE(data)[64] = {1};
char EDGE(bss)[64];
