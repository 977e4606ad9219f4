<?php

declare(strict_types=1);

require __DIR__ . '/../vendor/autoload.php';

$page = new App\Page(new Example\Greeting\Greeter(), __DIR__);
echo $page->render((string) ($_GET['name'] ?? 'world'));
