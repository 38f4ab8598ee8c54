banner
echo "static const char *const words[] = {"
while read -r word; do echo "    \"$word\","; done
echo "};"
