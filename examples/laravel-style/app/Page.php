<?php

declare(strict_types=1);

namespace App;

use Example\Greeting\Greeter;

/** The only page: a greeting, with the script and the style that the front-end stage built. */
final class Page
{
    public function __construct(private Greeter $greeter, private string $public)
    {
    }

    public function render(string $name): string
    {
        $greeting = htmlspecialchars($this->greeter->greet($name));
        $script = htmlspecialchars($this->asset('/js/app.js'));
        $style = htmlspecialchars($this->asset('/css/app.css'));

        return <<<HTML
            <!doctype html>
            <title>Laravel style</title>
            <link rel="stylesheet" href="$style">
            <main>$greeting</main>
            <script src="$script"></script>

            HTML;
    }

    /** The address of a built file, from the manifest that the front-end build leaves. */
    private function asset(string $path): string
    {
        $text = file_get_contents($this->public . '/mix-manifest.json');
        $manifest = json_decode((string) $text, true, flags: JSON_THROW_ON_ERROR);

        return $manifest[$path] ?? throw new \RuntimeException("no built file $path in the manifest");
    }
}
